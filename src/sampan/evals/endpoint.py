"""A model behind a URL, asked as clients of OpenAI's and of Anthropic's API ask."""

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from sampan.core.errors import RequestError, UsageError, quoted, shortened
from sampan.core.types import SamplingParams
from sampan.evals.asker import Answered, Messages, Ranked
from sampan.evals.benchmark import Options

Api = Literal["openai", "anthropic"]

_AGAIN = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))
_ATTEMPTS = 8
_LONGEST_S = 60.0
_ASKED = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_OPENAI, _ANTHROPIC = "/chat/completions", "/messages"


@dataclass(frozen=True)
class Place:
    """Where a model is asked. `url`: the whole of it."""

    url: str
    api: Api

    @classmethod
    def of(cls, given: str, api: Api | None = None) -> "Place":
        """`given`: an API's base, such as http://127.0.0.1:8000/v1, or the whole URL. Raises `UsageError`."""
        parts = urlsplit(given)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(
                f"endpoint {quoted(given)}: give a URL such as http://127.0.0.1:8000/v1, or one that ends "
                f"in {_OPENAI} or {_ANTHROPIC}"
            )
        whole = given.rstrip("/")
        for known, end in (("openai", _OPENAI), ("anthropic", _ANTHROPIC)):
            if whole.endswith(end):
                if api not in (None, known):
                    raise UsageError(
                        f"endpoint {quoted(given)}: is of {known}'s API, and {api} was asked for"
                    )
                return cls(whole, known)  # type: ignore[arg-type]
        if not parts.path.strip("/"):
            whole += "/v1"
        own: Api = api or "openai"
        return cls(whole + (_OPENAI if own == "openai" else _ANTHROPIC), own)


@dataclass
class Endpoint:
    """`model`: as its API names it. `timeout`: seconds that an answer may take. What a server refuses for
    now (busy, too many requests) is asked again as late as it says, otherwise ever later; the others wait
    too. Close it when it has answered."""

    place: Place
    model: str
    key: str | None = None
    concurrency: int = 16
    timeout: float = 600.0
    ranks: bool = False
    _wait_until: float = 0.0
    _client: httpx.AsyncClient | None = field(default=None, repr=False)

    async def ask(self, messages: Messages, sampling: SamplingParams) -> Answered:
        """See `Asker`. Raises `RequestError`, with what the server said."""
        openai = self.place.api == "openai"
        body = (
            _openai(self.model, messages, sampling) if openai else _anthropic(self.model, messages, sampling)
        )
        started = time.perf_counter()
        found = await self._answer(body)
        try:
            return (_read_openai if openai else _read_anthropic)(found, time.perf_counter() - started)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise RequestError(
                f"{self.place.url}: its answer is none of {self.place.api}'s API "
                f"({type(error).__name__} {error}): {shortened(str(found))}"
            ) from error

    async def rank(self, options: Options) -> Ranked:
        """Raises `UsageError`: these APIs do not tell log-probabilities of given texts."""
        raise UsageError(f"{self.place.url}: tells no likelihoods of {quoted(options.continuations[0])}")

    async def close(self) -> None:
        """Its connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _answer(self, body: Mapping[str, Any]) -> Any:
        for attempt in range(1, _ATTEMPTS + 1):
            await asyncio.sleep(max(0.0, self._wait_until - time.monotonic()))
            last = attempt == _ATTEMPTS
            try:
                response = await self._http().post(self.place.url, json=body, headers=self._headers())
            except httpx.TransportError as error:
                if last:
                    told = str(error) or type(error).__name__
                    raise RequestError(
                        f"{self.place.url}: no answer in {attempt} attempts: {told}"
                    ) from error
                await asyncio.sleep(_later(attempt))
                continue
            if response.status_code == httpx.codes.OK:
                return self._json(response)
            if response.status_code not in _AGAIN or last:
                said = f"status {response.status_code}: {shortened(response.text)}"
                raise RequestError(f"{self.place.url}: {said}")
            asked = _asked_wait(response.headers)
            if asked is None:
                await asyncio.sleep(_later(attempt))
            else:
                self._wait_until = max(self._wait_until, time.monotonic() + asked)
        raise AssertionError("the last attempt returns or raises")

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise RequestError(
                f"{self.place.url}: its answer is no JSON: {shortened(response.text)}"
            ) from error

    def _headers(self) -> dict[str, str]:
        if self.place.api == "anthropic":
            return {"anthropic-version": "2023-06-01", **({"x-api-key": self.key} if self.key else {})}
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            limits = httpx.Limits(max_connections=self.concurrency)
            self._client = httpx.AsyncClient(timeout=httpx.Timeout(self.timeout, connect=30), limits=limits)
        return self._client


def _openai(model: str, messages: Messages, sampling: SamplingParams) -> dict[str, Any]:
    """What is not the API's default alone: not every server knows every field."""
    body: dict[str, Any] = {"model": model, "messages": messages, "temperature": sampling.temperature}
    if sampling.max_tokens is not None:
        body["max_tokens"] = sampling.max_tokens
    if sampling.temperature > 0 and sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.top_p != 1.0:
        body["top_p"] = sampling.top_p
    return body


def _anthropic(model: str, messages: Messages, sampling: SamplingParams) -> dict[str, Any]:
    system = [message["content"] for message in messages if message["role"] == "system"]
    body: dict[str, Any] = {
        "model": model,
        "messages": [message for message in messages if message["role"] != "system"],
        "max_tokens": sampling.max_tokens or 1024,  # which this API asks for
        "temperature": min(1.0, sampling.temperature),
    }
    if system:
        body["system"] = "\n\n".join(system)
    if sampling.top_p != 1.0:
        body["top_p"] = sampling.top_p
    return body


def _read_openai(found: Any, seconds: float) -> Answered:
    choice, usage = found["choices"][0], found.get("usage") or {}
    message = choice["message"]
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    return Answered(
        message.get("content") or "", reasoning, choice.get("finish_reason") or "",
        usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0), seconds,
    )  # fmt: skip


def _read_anthropic(found: Any, seconds: float) -> Answered:
    blocks, usage = found["content"], found.get("usage") or {}
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    thought = "".join(block["thinking"] for block in blocks if block["type"] == "thinking")
    reason = {"max_tokens": "length", "end_turn": "stop", "stop_sequence": "stop"}
    said = found.get("stop_reason") or ""
    asked = sum(usage.get(name) or 0 for name in _ASKED)
    return Answered(
        text, thought, reason.get(said, said), asked, usage.get("output_tokens", 0), seconds,
    )  # fmt: skip


def _asked_wait(headers: httpx.Headers) -> float | None:
    """Seconds, as the server says; None where it says nothing that is a number."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return min(_LONGEST_S, max(0.0, float(headers[name]) * unit))
        except (KeyError, ValueError):
            continue
    return None


def _later(attempt: int) -> float:
    """Seconds: twice as long each time, and not the same for all."""
    return min(_LONGEST_S, 0.5 * 2.0**attempt) * random.uniform(0.5, 1.0)

"""Random requests in every way that a service can be asked, a tenth of them to be left by their clients."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PHASES = ("headers", "body", "queue", "answer")
WORDS = ("river", "stone", "paper", "light", "market", "winter", "engine", "garden", "letter", "number")
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Ada", "Bob"]}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
GRAMMARS: tuple[dict[str, Any], ...] = (
    {"response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}},
    {"grammar": {"type": "regex", "value": "(yes|no|maybe)( [a-z]{1,8}){0,3}"}},
    {"grammar": {"type": "choice", "value": ["red", "green", "blue"]}},
)


@dataclass(frozen=True)
class Question:
    """One request. `leave`: the phase in which the client hangs up."""

    kind: str
    path: str
    body: dict[str, Any]
    leave: str | None

    @property
    def head(self) -> bytes:
        """The request up to its body."""
        return (
            f"POST {self.path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            "anthropic-version: 2023-06-01\r\ncontent-type: application/json\r\n"
            f"content-length: {len(self.content)}\r\n\r\n"
        ).encode()

    @property
    def content(self) -> bytes:
        """The body."""
        return json.dumps(self.body).encode()

    def is_whole(self, answer: bytes) -> bool:
        """Whether this is all of it: JSON with its usage, or a stream's last event and last chunk."""
        if not self.body["stream"]:
            return "usage" in json.loads(answer)
        last = b"event: message_stop" if self.path == "/v1/messages" else b"data: [DONE]"
        return last in answer[-100:] and answer.endswith(b"\r\n0\r\n\r\n")


class Traffic:
    """Makes them up for a model."""

    def __init__(self, model: str, chance: random.Random) -> None:
        self.model = model
        self.chance = chance

    def questions(self, count: int) -> Iterator[Question]:
        """So many."""
        kinds = (self.chat, self.completion, self.messages, self.grammar)
        for _ in range(count):
            yield self.chance.choices(kinds, (4, 2, 2, 1))[0]()

    def question(self, kind: str, path: str, body: dict[str, Any]) -> Question:
        leave = self.chance.choice(PHASES) if self.chance.random() < 0.1 else None
        if body["stream"]:
            kind += ", streamed"
        return Question(kind, path, {"model": self.model, **body}, leave)

    def chat(self) -> Question:
        body = {"messages": [{"role": "user", "content": self.text()}], **self.sampling(), **self.streamed()}
        return self.question("chat", "/v1/chat/completions", body)

    def completion(self) -> Question:
        body = {"prompt": self.text(), **self.sampling(), **self.streamed()}
        return self.question("completion", "/v1/completions", body)

    def messages(self) -> Question:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": self.text()}], **self.streamed()}
        body["max_tokens"] = self.length()
        return self.question("messages", "/v1/messages", body)

    def grammar(self) -> Question:
        body = {"messages": [{"role": "user", "content": self.text()}], "max_tokens": 40, **self.streamed()}
        body |= self.chance.choice(GRAMMARS)
        return self.question("grammar", "/v1/chat/completions", body)

    def streamed(self) -> dict[str, Any]:
        return {"stream": self.chance.random() < 0.5}

    def sampling(self) -> dict[str, Any]:
        c = self.chance
        kinds: tuple[dict[str, Any], ...] = (
            {"temperature": 0},
            {"temperature": 0.8, "top_k": 40, "top_p": 0.95},
            {"temperature": 1.0, "seed": c.randrange(2**32)},
            {"temperature": 0.7, "stop": [c.choice(WORDS), "\n\n"]},
            {"temperature": 0.6, "frequency_penalty": 0.2, "n": 2},
        )
        return {"max_tokens": self.length(), "ignore_eos": c.random() < 0.5, **c.choice(kinds)}

    def length(self) -> int:
        return 1 + min(150, int(self.chance.expovariate(1 / 8)))

    def text(self) -> str:
        """Some begin alike, so that prefixes are shared; few are long."""
        count = min(200, int(self.chance.expovariate(1 / 12)))
        same = self.chance.choice((0, 0, 0, 30, 60))
        words = [WORDS[place % len(WORDS)] for place in range(same)] + self.chance.choices(WORDS, k=count)
        return " ".join(words) or "river"

"""Clients' texts as token ids and back, within limits, by the text workers.

What cannot fit is refused by its length, before anything is done with it.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from sampan.server.ask import Caller, Ids
from sampan.server.errors import ApiError, bad_request
from sampan.server.process.text_workers import TextWorkers
from sampan.server.text import ModelText, too_long

_SMALLEST_BODY = 4 << 20
COUNTED = 4
"""Contexts that a text may be long whose tokens are counted, and not answered."""


class Texts:
    """Of one model, whose longest sequence has `context` tokens. `max_body`: bytes of a request at most.
    `literal`: control tokens that are written in conversations are plain text."""

    def __init__(
        self, text: ModelText, workers: TextWorkers, context: int, max_body: int, *, literal: bool = True
    ) -> None:
        self._literal = literal
        self._text = text
        self._workers = workers
        self._context = context
        self._max_body = max_body

    @property
    def most_body(self) -> int:
        """Bytes of the largest body: JSON may write a character in six times its bytes."""
        longest = 6 * COUNTED * self._context * self._text.tokenizer.longest
        return min(self._max_body, max(_SMALLEST_BODY, longest))

    async def thinking(self) -> tuple[bool, bool]:
        """`ModelText.thinking_switch`."""
        found = False, False
        with suppress(ApiError):  # a template beyond its limits: every conversation will say so
            found = await self._workers.run(Caller(), 0, "thinking")
        return found

    async def markdown(self, text: str, caller: Caller) -> list[dict[str, Any]]:
        """The blocks of a text for the page."""
        found: list[dict[str, Any]] = await self._workers.run(caller, len(text), "markdown", text)
        return found

    async def parsed(self, body: bytes, caller: Caller) -> Any:
        """The value of a long body of JSON."""
        return await self._workers.run(caller, len(body), "body", body)

    async def rendered(
        self,
        messages: Sequence[Mapping[str, Any]],
        caller: Caller,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
        contexts: int = 1,
    ) -> tuple[Ids, bool]:
        """The prompt of a conversation, and whether it has opened a block of reasoning.

        Raises a 400 for one that is notably longer than so many contexts.
        """
        given = list(messages), list(tools), dict(variables or {})
        size = self._checked(characters(given), contexts)
        most = contexts * self._context
        found: tuple[Ids, bool] = await self._workers.run(
            caller, size, "conversation", *given, most, self._literal
        )
        return found

    async def encoded(
        self,
        texts: Sequence[str],
        caller: Caller,
        *,
        special: bool = True,
        closed: bool = False,
        contexts: int = 1,
    ) -> list[Ids]:
        """The ids of texts; the same error. `special`: each begins as the model wants a text to begin;
        `closed`: and ends as one that is to be embedded."""
        for text in texts:
            self._checked(len(text), contexts)
        size, most = sum(map(len, texts)), contexts * self._context
        found: list[Ids] = await self._workers.run(
            caller, size, "encoded", list(texts), special, closed, most
        )
        return found

    async def judgements(
        self, query: str, documents: Sequence[str], instruction: str | None, caller: Caller
    ) -> list[Ids]:
        """The prompts that ask whether documents are relevant to a query; the same error."""
        around = len(query) + len(instruction or "")
        size = sum(self._checked(around + len(document), 1) for document in documents)
        given = query, list(documents), instruction, self._context
        found: list[Ids] = await self._workers.run(caller, size, "judgements", *given)
        return found

    async def decoded(self, ids: Sequence[int], caller: Caller) -> str:
        """The text of token ids; a 400 for ids outside of the vocabulary, or very many."""
        most = COUNTED * self._context
        if len(ids) > most:
            raise bad_request(f"{len(ids)} tokens: at most {most} are taken at once", param="tokens")
        found: str = await self._workers.run(caller, 4 * len(ids), "decoded", ids)
        return found

    def _checked(self, size: int, contexts: int) -> int:
        """The characters of a text, if that many can fit: no token has more bytes than the longest."""
        if size > contexts * self._context * self._text.tokenizer.longest:
            raise too_long(contexts * self._context)
        return size


def characters(value: object) -> int:
    """Of all texts in it."""
    found, rest = 0, [value]
    while rest:
        item = rest.pop()
        if isinstance(item, str):
            found += len(item)
        elif isinstance(item, Mapping):
            rest.extend(item.values())
        elif isinstance(item, list | tuple):
            rest.extend(item)
    return found

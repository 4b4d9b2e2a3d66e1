"""Thinking on request: what the served model can do of it, and thinking for no more than so many tokens."""

from array import array
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from sampan.server.ask import Ask, Caller, Part, Usage
from sampan.server.errors import bad_request
from sampan.server.text import ModelText

_CLOSING = "\n</think>\n\n"


class Thinking(NamedTuple):
    """What a model's template does: `switched` where a request can say if the model thinks; `unasked` where
    it thinks if nothing is said."""

    switched: bool = False
    unasked: bool = False


class Answering(Protocol):
    """What is needed of the service here."""

    @property
    def text(self) -> ModelText: ...

    @property
    def thinking(self) -> Thinking: ...

    def answer(self, ask: Ask, caller: Caller, usage: Usage) -> AsyncIterator[Part]: ...


def variables(service: Answering, wanted: bool, *, param: str) -> dict[str, Any]:
    """What to tell the chat template; a 400 for a model that cannot think, or cannot do without."""
    text = service.text
    if service.thinking.switched:
        return {"enable_thinking": wanted}
    thinks = service.thinking.unasked or len(text.tokenizer.encode("<think>", add_bos=False)) == 1
    if wanted and not thinks:
        raise bad_request(f"{param}: {text.name} does not think before it answers: leave it out", param=param)
    if thinks and not wanted:
        raise bad_request(f"{param}: {text.name} always thinks before it answers: leave it out", param=param)
    return {}


async def within_budget(
    service: Answering, ask: Ask, caller: Caller, usage: Usage, budget: int
) -> AsyncIterator[Part]:
    """The parts of one answer that thinks for at most `budget` tokens.

    At the end of the budget the block of reasoning is closed for the model, and it goes on from there: what
    it has thought becomes prompt, which the prefix cache holds already.
    """
    ids: list[int] = []
    thinks = True
    async with aclosing(service.answer(ask, caller, usage)) as parts:  # type: ignore[type-var]
        async for part in parts:
            ids += [chosen.token for chosen in part.tokens]
            yield part
            if part.finish is not None:
                return
            thinks = thinks and not part.text.strip() and not part.calls
            if thinks and part.reasoning and usage.reasoning_tokens >= budget:
                usage.enough = True
                break
    async for part in _rest(service, ask, ids, caller, usage):
        yield part


async def _rest(
    service: Answering, ask: Ask, ids: list[int], caller: Caller, usage: Usage
) -> AsyncIterator[Part]:
    closing = service.text.tokenizer.encode(_CLOSING, add_bos=False)
    most = ask.sampling.max_tokens
    left = None if most is None else max(1, most - len(ids))
    sampling = replace(ask.sampling, max_tokens=left)
    rest = replace(ask, ids=ask.ids + array("i", [*ids, *closing]), sampling=sampling, thinking=False)
    counted, before = Usage(len(rest.ids)), usage.completion_tokens
    async with aclosing(service.answer(rest, caller, counted)) as parts:  # type: ignore[type-var]
        async for part in parts:
            usage.completion_tokens = before + counted.completion_tokens
            yield part

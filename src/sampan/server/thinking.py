"""Thinking on request: what the served model can do of it, and for how long it is to think."""

from typing import Any, NamedTuple, Protocol

from sampan.server.errors import bad_request
from sampan.server.text import ModelText

EFFORTS = {"minimal": 512, "low": 2048, "medium": None, "high": None}
"""Tokens of reasoning by OpenAI's names; None for as many as the model likes."""


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

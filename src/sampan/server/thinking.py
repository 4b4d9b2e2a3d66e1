"""Thinking on request: what the served model can do of it, and for how long it is to think.

How much effort is wanted is a hint: a model that cannot think answers without, and the answer says that the
field was passed over. A model that always thinks is held to no thoughts by a budget of none.
"""

from typing import Any, NamedTuple, Protocol

from sampan.server.fields import Ignored
from sampan.server.text import ModelText
from sampan.server.watch import logs

_EFFORTS = {"none": 0, "minimal": 512, "low": 2048}
"""Tokens of reasoning by OpenAI's names; of the others as many as the model likes."""


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


class Plan(NamedTuple):
    """`variables`: what to tell the chat template. `budget`: tokens of reasoning at most."""

    variables: dict[str, Any]
    budget: int | None


def planned(
    service: Answering,
    wanted: bool,
    *,
    param: str | None,
    effort: str | None = None,
    budget: int | None = None,
) -> Plan:
    """To think or not, for so many tokens or with so much effort. `param`: the field that says so, if
    it is to be told where it is passed over."""
    text = service.text
    most = budget if budget is not None else _EFFORTS.get(effort or "")
    told = {} if effort is None else {"reasoning_effort": effort}
    if service.thinking.switched:
        return Plan({"enable_thinking": wanted, **told}, most if wanted else None)
    thinks = service.thinking.unasked or len(text.tokenizer.encode("<think>", add_bos=False)) == 1
    if not thinks:
        if wanted and param is not None:
            logs.ignore([Ignored(param, known=True)])
        return Plan(told, None)
    return Plan(told, most if wanted else 0)

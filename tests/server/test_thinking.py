"""How much a request wants thought, for models that can be told, that always think, and that cannot."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from sampan.server.anthropic.asks import thinking_of as of_messages
from sampan.server.anthropic.schemas import MessagesRequest
from sampan.server.openai.asks import thinking_of as of_chat
from sampan.server.openai.schemas import ChatRequest
from sampan.server.thinking import Plan, Thinking
from sampan.server.watch import logs

HI: Any = [{"role": "user", "content": "Hi"}]


def model(kind: str) -> Any:
    thinking = {"switched": Thinking(True, False), "always": Thinking(False, True), "never": Thinking()}[kind]
    tokenizer = SimpleNamespace(encode=lambda *_, **__: [1, 2])
    return SimpleNamespace(text=SimpleNamespace(name="m", tokenizer=tokenizer), thinking=thinking)


@pytest.fixture
def record() -> Any:
    record = logs.Record("r", 0.0)
    token = logs._current.set(record)
    yield record
    logs._current.reset(token)


def told(record: logs.Record) -> set[str]:
    return {field.name for field in record.ignored}


@pytest.mark.parametrize(
    ("kind", "effort", "variables", "budget"),
    [
        ("switched", "none", {"enable_thinking": False}, None),
        ("switched", "minimal", {"enable_thinking": True}, 512),
        ("switched", "low", {"enable_thinking": True}, 2048),
        ("switched", "high", {"enable_thinking": True}, None),
        ("always", "none", {}, 0),
        ("always", "low", {}, 2048),
        ("always", "max", {}, None),
        ("never", "none", {}, None),
        ("never", "low", {}, None),
    ],
)
def test_effort(record: Any, kind: str, effort: str, variables: dict[str, Any], budget: int | None) -> None:
    body = ChatRequest.model_validate({"model": "m", "messages": HI, "reasoning_effort": effort})
    assert of_chat(body, model(kind)) == Plan({**variables, "reasoning_effort": effort}, budget)
    assert told(record) == ({"reasoning_effort"} if (kind, effort) == ("never", "low") else set())


def test_what_is_said_of_tokens_and_to_the_template_goes_before() -> None:
    given = {"reasoning_effort": "low", "max_reasoning_tokens": 7,
             "chat_template_kwargs": {"enable_thinking": False}}  # fmt: skip
    body = ChatRequest.model_validate({"model": "m", "messages": HI, **given})
    plan = of_chat(body, model("switched"))
    assert (plan.variables["enable_thinking"], plan.budget) == (False, 7)


@pytest.mark.parametrize(
    ("kind", "given", "enabled", "budget", "ignored"),
    [
        ("switched", {"thinking": {"type": "enabled", "budget_tokens": 9}}, True, 9, set()),
        ("switched", {"thinking": {"type": "disabled"}}, False, None, set()),
        ("switched", {"thinking": {"type": "adaptive"}}, True, None, set()),
        (
            "switched",
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
            True,
            2048,
            set(),
        ),
        ("switched", {"output_config": {"effort": "low"}}, None, 2048, set()),
        ("switched", {}, None, None, set()),
        ("always", {"thinking": {"type": "disabled"}}, None, 0, set()),
        ("never", {"thinking": {"type": "enabled", "budget_tokens": 9}}, None, None, {"thinking"}),
        ("never", {"thinking": {"type": "adaptive"}}, None, None, set()),
        ("never", {"output_config": {"effort": "max"}}, None, None, {"output_config.effort"}),
    ],
)
def test_thinking_of_messages(
    record: Any,
    kind: str,
    given: dict[str, Any],
    enabled: bool | None,
    budget: int | None,
    ignored: set[str],
) -> None:
    body = MessagesRequest.model_validate({"model": "m", "messages": HI, "max_tokens": 100, **given})
    plan = of_messages(body, cast(Any, model(kind)))
    assert (plan.variables.get("enable_thinking"), plan.budget) == (enabled, budget)
    assert told(record) == ignored

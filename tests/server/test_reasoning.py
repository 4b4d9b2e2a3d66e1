"""A model whose template opens the reasoning, over HTTP: it is told apart, ends in time, and is counted."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from sampan.cli import quantize
from sampan.core.types import ModelFiles

if TYPE_CHECKING:
    from conftest import Running, Serve

# What DeepSeek-R1's does: no system prompt of its own, old reasoning dropped, and the tag opened.
TEMPLATE = """
{%- for m in messages %}
{%- set content = m.content.split('</think>')[-1] if m.role == 'assistant' else m.content %}
{{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}
"""
ASKED = {"role": "user", "content": "Tell me a long story about a river."}


@pytest.fixture(scope="module")
def thinker(
    default_model: ModelFiles, serve: "Serve", tmp_path_factory: pytest.TempPathFactory
) -> Iterator["Running"]:
    """The default model with such a template."""
    folder = tmp_path_factory.mktemp("thinker") / "m"
    quantize.command(str(default_model.path), folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with serve(name=str(folder)) as running:
        yield running


def chat(running: "Running", *messages: dict[str, str], **fields: Any) -> Any:
    body = {"model": _model(running), "messages": messages or (ASKED,), "temperature": 0, "max_tokens": 40}
    done = httpx.post(f"{running.url}/v1/chat/completions", json=body | fields, timeout=120)
    return done.json() if done.status_code == 200 else (done.status_code, done.json()["error"]["param"])


def _model(running: "Running") -> str:
    return str(httpx.get(f"{running.url}/v1/models").json()["data"][0]["id"])


def test_the_answer_begins_when_the_budget_is_spent(thinker: "Running") -> None:
    free = chat(thinker)
    assert free["choices"][0]["message"]["content"] in ("", None)
    assert free["choices"][0]["finish_reason"] == "length"
    cut = chat(thinker, max_reasoning_tokens=6)
    (choice,), usage = cut["choices"], cut["usage"]
    assert choice["message"]["content"].strip()
    thought = choice["message"]["reasoning_content"]
    assert free["choices"][0]["message"]["reasoning_content"].startswith(thought.removesuffix("\n"))
    assert 6 <= usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"] <= 40


def test_effort_is_a_budget_and_what_cannot_be_had_is_refused(thinker: "Running") -> None:
    assert chat(thinker, reasoning_effort="low", max_tokens=4)["choices"]
    silent = chat(thinker, reasoning_effort="none", max_tokens=12)["choices"][0]["message"]
    assert "reasoning_content" not in silent or not silent["reasoning_content"].strip()
    assert silent["content"].strip()
    assert chat(thinker, reasoning_effort="enormous") == (400, "reasoning_effort")
    assert chat(thinker, max_reasoning_tokens=-1) == (400, "max_reasoning_tokens")


def test_what_was_thought_before_is_taken_and_dropped_as_the_template_says(thinker: "Running") -> None:
    def prompt_tokens(**answer: str) -> int:
        answered = {"role": "assistant", **answer}
        found = chat(thinker, ASKED, answered, ASKED, max_tokens=1)
        return int(found["usage"]["prompt_tokens"])

    plain = prompt_tokens(content="A river.")
    assert prompt_tokens(content="A river.", reasoning_content="Hm, rivers.") == plain
    assert prompt_tokens(content="A river.", reasoning="Hm, rivers.") == plain
    assert prompt_tokens(content="<think>Hm, rivers.</think>A river.") == plain


def test_no_system_prompt_is_added_and_a_given_one_stays(thinker: "Running") -> None:
    least = chat(thinker, max_tokens=1)["usage"]["prompt_tokens"]
    system = {"role": "system", "content": "Be brief."}
    assert least < chat(thinker, system, ASKED, max_tokens=1)["usage"]["prompt_tokens"] < least + 12


def test_anthropics_budget_ends_the_thinking(thinker: "Running") -> None:
    body = {
        "model": _model(thinker),
        "max_tokens": 40,
        "temperature": 0,
        "messages": [ASKED],
        "thinking": {"type": "enabled", "budget_tokens": 6},
    }
    answer = httpx.post(f"{thinker.url}/v1/messages", json=body, timeout=120).json()
    assert [block["type"] for block in answer["content"]] == ["thinking", "text"]
    assert (
        answer["usage"]["output_tokens_details"]["thinking_tokens"] < answer["usage"]["output_tokens"] <= 40
    )

"""Several system messages for a template that takes one."""

from dataclasses import replace
from typing import Any

import pytest

from sampan.core.types import ModelFiles
from sampan.server.errors import ApiError
from sampan.server.text import ModelText
from sampan.text.chat import ChatTemplate
from sampan.text.turns import folded

# As Qwen3.5's and Gemma's do: one system message, at the beginning, and turns by turns.
STRICT = """
{%- for m in messages %}
{%- if m.role == 'system' and not loop.first %}{{ raise_exception('System message must be at the beginning.') }}{% endif %}
{%- if not loop.first and m.role == loop.previtem.role %}{{ raise_exception('Roles must alternate.') }}{% endif %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""  # noqa: E501


def said(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def test_system_messages_become_one_and_the_users() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}
    given = [
        said("system", "A"), said("system", "B"), said("user", "C"), said("system", "D"), call,
        said("tool", "E"), said("tool", "F"), said("system", "G"),
    ]  # fmt: skip
    assert folded(given) == [
        said("system", "A\n\nB"), said("user", "C\n\nD"), call, said("tool", "E"), said("tool", "F"),
        said("user", "G"),
    ]  # fmt: skip
    assert given[0] == said("system", "A")
    plain = [said("system", "A"), said("user", "B"), said("assistant", "C"), said("user", "D")]
    assert folded(plain) == plain


@pytest.fixture(scope="module")
def strict(default_model: ModelFiles) -> ModelText:
    text = ModelText.read(default_model, "m")
    return replace(text, template=ChatTemplate(STRICT, bos="", eos=""))


def test_a_template_that_refuses_them_gets_one(strict: ModelText) -> None:
    given = [said("system", "A"), said("system", "B"), said("user", "C"), said("system", "D")]
    ids, _ = strict.conversation(given, [], {}, 1000)
    expected, _ = strict.conversation([said("system", "A\n\nB"), said("user", "C\n\nD")], [], {}, 1000)
    assert ids == expected


def test_what_it_refuses_all_the_same_is_its_own_error(strict: ModelText) -> None:
    with pytest.raises(ApiError, match="Roles must alternate"):
        strict.conversation(
            [said("user", "A"), said("assistant", "B"), said("assistant", "C")],
            [],
            {},
            1000,
        )

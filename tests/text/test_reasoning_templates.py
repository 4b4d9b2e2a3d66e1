"""A template that writes what DeepSeek-R1's writes: the prompt opens the reasoning, past reasoning is
dropped, and there is no system prompt where none is given."""

from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from sampan.catalog.catalog import find
from sampan.text.chat import ChatTemplate
from sampan.text.reasoning import starts_inside_reasoning

R1 = """{{ bos_token }}{%- set seen = namespace(results=false) -%}
{%- for message in messages if message.role == 'system' -%}{{ message.content }}{%- endfor -%}
{%- for message in messages -%}
  {%- if message.role != 'tool' and seen.results -%}
    {{- '<｜tool▁outputs▁end｜>' -}}{%- set seen.results = false -%}
  {%- endif -%}
  {%- if message.role == 'user' -%}{{ '<｜User｜>' + message.content }}
  {%- elif message.role == 'tool' -%}
    {{- '\n' if seen.results else '<｜tool▁outputs▁begin｜>' -}}
    {{- '<｜tool▁output▁begin｜>' + message.content + '<｜tool▁output▁end｜>' -}}
    {%- set seen.results = true -%}
  {%- elif message.role == 'assistant' and message.tool_calls -%}
    {{- '<｜Assistant｜><｜tool▁calls▁begin｜>' -}}
    {%- for call in message.tool_calls -%}
      {{- '\n' if not loop.first -}}
      {{- '<｜tool▁call▁begin｜>' + call.type + '<｜tool▁sep｜>' + call.function.name + '\n```json\n' -}}
      {{- call.function.arguments + '\n```<｜tool▁call▁end｜>' -}}
    {%- endfor -%}
    {{- '<｜tool▁calls▁end｜>' + eos_token -}}
  {%- elif message.role == 'assistant' -%}
    {{- '<｜Assistant｜>' + message.content.split('</think>')[-1].strip() + eos_token -}}
  {%- endif -%}
{%- endfor -%}
{%- if seen.results -%}{{ '<｜tool▁outputs▁end｜>' }}
{%- elif add_generation_prompt -%}{{ '<｜Assistant｜><think>\n' }}{%- endif -%}"""
BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
ASKED = {"role": "user", "content": "Is 91 a prime?"}
THOUGHT = "<think>\n7 times 13\n</think>\n\nNo."
AGAIN = {"role": "user", "content": "And 97?"}
CALL = {"type": "function", "function": {"name": "is_prime", "arguments": '{"n": 97}'}}
HISTORIES: dict[str, list[dict[str, Any]]] = {
    "a question": [ASKED],
    "a system prompt": [{"role": "system", "content": "Be brief."}, ASKED],
    "an answer with its thoughts": [ASKED, {"role": "assistant", "content": THOUGHT}, AGAIN],
    "thoughts apart": [
        ASKED,
        {"role": "assistant", "content": "No.", "reasoning_content": "7 times 13"},
        AGAIN,
    ],
}


@pytest.fixture(scope="module")
def ours() -> ChatTemplate:
    return ChatTemplate(R1, bos=BOS, eos=EOS)


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("opened", [True, False], ids=["to be answered", "whole"])
def test_it_renders_as_transformers_renders_it(history: str, opened: bool, ours: ChatTemplate) -> None:
    oracle = PreTrainedTokenizerFast(
        tokenizer_object=Backend(models.BPE({BOS: 0, EOS: 1}, [])), bos_token=BOS, eos_token=EOS
    )
    expected = oracle.apply_chat_template(
        HISTORIES[history], chat_template=R1, tokenize=False, add_generation_prompt=opened
    )
    assert ours.render(HISTORIES[history], add_generation_prompt=opened) == expected


def test_the_prompt_opens_the_reasoning_and_has_no_system_prompt(ours: ChatTemplate) -> None:
    prompt = ours.render([ASKED])
    assert prompt == f"{BOS}<｜User｜>Is 91 a prime?<｜Assistant｜><think>\n"
    assert starts_inside_reasoning(prompt)
    assert not starts_inside_reasoning(ours.render([ASKED], add_generation_prompt=False))


@pytest.mark.parametrize("history", ["an answer with its thoughts", "thoughts apart"])
def test_past_reasoning_is_dropped(history: str, ours: ChatTemplate) -> None:
    prompt = ours.render(HISTORIES[history])
    assert "7 times 13" not in prompt
    assert prompt.count("<think>") == 1
    assert f"No.{EOS}<｜User｜>And 97?<｜Assistant｜><think>\n" in prompt


def test_a_call_and_its_results(ours: ChatTemplate) -> None:
    """transformers leaves a null content out, which this template asks for."""
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    results = [{"role": "tool", "content": "false"}, {"role": "tool", "content": "true"}]
    prompt = ours.render([ASKED, call, *results])
    assert "<｜tool▁call▁begin｜>function<｜tool▁sep｜>is_prime\n```json\n{" in prompt
    output = "<｜tool▁output▁begin｜>{}<｜tool▁output▁end｜>"
    assert f"{output.format('false')}\n{output.format('true')}<｜tool▁outputs▁end｜>" in prompt
    assert not prompt.endswith("<think>\n")


def test_the_catalogue_says_what_the_authors_advise() -> None:
    for name in ("deepseek-r1", "r1-distill-qwen-1.5b", "r1-distill-llama-8b"):
        entry = find(name)
        assert entry is not None
        assert not entry.system_prompt
        assert entry.sampling == {"temperature": 0.6, "top_p": 0.95}

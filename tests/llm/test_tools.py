"""Tools by the Python API: the model is told of them, and an answer calls or keeps its grammar."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from sampan.core.errors import RequestError
from sampan.core.types import Call, Grammar, SamplingParams
from sampan.llm import LLM

pytestmark = pytest.mark.usefixtures("at_rest")

GREEDY = SamplingParams(temperature=0, max_tokens=60)
LOOK: Mapping[str, Any] = {
    "name": "look",
    "description": "Looks at a place",
    "parameters": {
        "type": "object",
        "properties": {"place": {"enum": ["here", "there"]}},
        "required": ["place"],
    },
}
TOOLS = [{"type": "function", "function": LOOK}]
ASK: Any = [{"role": "user", "content": "Is it there?"}]
PERSON: Mapping[str, Any] = {
    "type": "object",
    "properties": {"age": {"type": "integer"}},
    "required": ["age"],
}
FORM = Grammar("choice", '["yes", "no"]')


def calling(llm: LLM) -> SamplingParams:
    """What makes the model call where it may: the first token of Hermes' tag, forty tokens long."""
    first = llm.tokenizer.encode("<tool_call>", add_bos=False)[0]
    return replace(GREEDY, logit_bias={first: 100.0}, max_tokens=40)


def test_the_model_is_told_of_tools_that_its_template_does_not_know(llm: LLM) -> None:
    prompt = llm.prompt(ASK, tools=TOOLS)
    assert json.dumps(LOOK) in prompt
    assert "<tool_call>" in prompt
    assert llm.prompt(ASK, tools=[]) == llm.prompt(ASK)


@pytest.mark.parametrize("form", [FORM, Grammar("json_object"), Grammar("json_schema", json.dumps(PERSON))])
def test_an_answer_calls_or_keeps_its_grammar(llm: LLM, form: Grammar) -> None:
    brace = llm.tokenizer.encode("{", add_bos=False)[0]
    bias = {} if form is FORM else {brace: 100.0}
    words = llm.chat(ASK, replace(GREEDY, logit_bias=bias), tools=TOOLS, grammar=form)
    assert words.calls == ()
    assert words.text in ("yes", "no") if form is FORM else words.text.startswith("{")
    answer = llm.chat(ASK, calling(llm), tools=TOOLS, grammar=form)
    assert answer.text == ""
    assert answer.calls
    assert answer.calls[0] in [Call("look", json.dumps({"place": place})) for place in ("here", "there")]


def test_a_stream_has_the_same_calls(llm: LLM) -> None:
    whole = llm.chat(ASK, calling(llm), tools=TOOLS, grammar=FORM)
    with llm.stream(ASK, calling(llm), tools=TOOLS, grammar=FORM) as stream:
        assert "".join(delta.text for delta in stream) == ""
    assert stream.completion.calls == whole.calls


MADE: Mapping[str, Any] = {
    "id": "1",
    "type": "function",
    "function": {"name": "look", "arguments": '{"place": "here"}'},
}
RESULT: Mapping[str, Any] = {"role": "tool", "tool_call_id": "1", "content": "yes"}


def test_a_conversation_with_calls_goes_on(llm: LLM) -> None:
    told = [*ASK, {"role": "assistant", "content": None, "tool_calls": [MADE]}, RESULT]
    prompt = llm.prompt(told, tools=TOOLS)
    assert '{"name": "look", "arguments": {"place": "here"}}' in prompt
    assert llm.chat(told, GREEDY, tools=TOOLS).finish_reason in ("stop", "length")
    cut = {**MADE, "function": {"name": "look", "arguments": '{"place": "he'}}
    assert "INVALID_JSON" in llm.prompt([*ASK, {"role": "assistant", "tool_calls": [cut]}], tools=TOOLS)


def test_messages_in_no_known_form_are_refused(llm: LLM) -> None:
    with pytest.raises(RequestError, match="tool_calls that are not"):
        llm.chat([*ASK, {"role": "assistant", "tool_calls": [{"name": "look"}]}], GREEDY, tools=TOOLS)

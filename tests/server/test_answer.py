"""Whose fault it is that an answer ends without a token."""

import pickle
from dataclasses import replace

import pytest

from sampan.core.types import FinishReason, Grammar, SamplingParams, TokenLogprob
from sampan.engine.sequence import Event, Refusal
from sampan.server.answer import Reader
from sampan.server.ask import Ask, Ids, Tools
from sampan.server.errors import ApiError
from sampan.server.text import ModelText


@pytest.mark.parametrize(
    ("error", "status"),
    [(Refusal("the grammar stopped the answer"), 400), ("the logits are no numbers", 500), (None, 500)],
)
def test_a_request_that_cannot_go_on_is_told_whose_fault_it_is(
    model_text: ModelText, error: str | None, status: int
) -> None:
    event = pickle.loads(pickle.dumps(Event(1, None, "error", error)))  # as the engine's process sends it
    reader = Reader(model_text, Ask(Ids("i", [1]), SamplingParams(), "m"), 0)
    with pytest.raises(ApiError) as raised:
        reader.take(event)
    assert raised.value.status == status
    assert (error or "without an answer") in raised.value.message


TOOLS = Tools([{"type": "function", "function": {"name": "look", "parameters": {}}}])


def read(model_text: ModelText, text: str, ask: Ask, last: FinishReason) -> tuple[str, list[str]]:
    """What a client gets of these tokens: the text, and the arguments of calls."""
    reader = Reader(model_text, ask, 0)
    ids = model_text.tokenizer.encode(text, add_bos=False)
    events = [
        Event(1, TokenLogprob(token, 0.0), last if n == len(ids) else None) for n, token in enumerate(ids, 1)
    ]
    parts = [reader.take(event) for event in events]
    calls = [call for part in parts for call in part.calls]
    arguments = ["".join(c.arguments for c in calls if c.index == n) for n in {c.index for c in calls}]
    return "".join(part.text for part in parts), arguments


@pytest.mark.parametrize("last", ["stop", "length"])
def test_a_call_written_as_json_is_one_where_no_grammar_holds(
    model_text: ModelText, last: FinishReason
) -> None:
    ask = Ask(Ids("i", [1]), SamplingParams(), "m", tools=TOOLS)
    written = '```json\n{"name": "look", "arguments": {"at": 1}}\n```'
    assert read(model_text, written, ask, last) == ("", ['{"at": 1}'])
    held = replace(ask, grammar=Grammar("json_object", calls="start: @form"))
    assert read(model_text, written, held, last) == (written, [])


def test_what_is_left_of_a_call_that_is_cut_is_not_shown(model_text: ModelText) -> None:
    ask = Ask(Ids("i", [1]), SamplingParams(), "m", tools=TOOLS)
    begun = 'Let me look.\n<tool_call>\n{"name": "lo'
    assert read(model_text, begun, ask, "length") == ("Let me look.", [])
    stopped = replace(ask, sampling=SamplingParams(stop=("lo",)))
    assert read(model_text, '<tool_call>\n{"name": "lo', stopped, None) == ("", [])
    assert read(model_text, begun, ask, "stop") == (begun, [])  # the model was done: it meant the text

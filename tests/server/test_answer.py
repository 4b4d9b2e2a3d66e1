"""Whose fault it is that an answer ends without a token."""

import pickle

import pytest

from sampan.core.types import SamplingParams
from sampan.engine.sequence import Event, Refusal
from sampan.server.answer import Reader
from sampan.server.ask import Ask, Ids
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

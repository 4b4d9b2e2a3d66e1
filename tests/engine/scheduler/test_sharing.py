"""What is computed once and used by many: prefixes that others computed, and drafts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sampan.core.types import SamplingParams, TokenLogprob
from sampan.engine.blocks import BlockPool
from sampan.engine.scheduler import Scheduler
from sampan.engine.sequence import Event, Sequence

Simulate = Callable[..., Any]


def ids(sequences: Any) -> list[int]:
    return [sequence.id for sequence in sequences]


def test_a_shared_prefix_is_computed_once_for_all_who_come_together(simulation: Simulate) -> None:
    prefix = [1 + n % 30 for n in range(64)]
    run = simulation(200, 4, 32, 64)
    for number in range(64):
        run.add([*prefix, 1 + number, 31 + number % 8], 64 + 2 + 1)
    run.finish()
    assert run.rows == 64 + 64 * 2
    assert [sequence.cached_tokens for sequence in run.sequences] == [0] + [64] * 63
    assert all(event.cached_tokens == 64 for events in run.events[1:] for event in events)
    assert run.scheduler.counters.looked_up == 64 * 66
    assert run.scheduler.counters.found == 63 * 64


def test_a_stranger_does_not_wait_for_a_prefix_that_others_wait_for(simulation: Simulate) -> None:
    run = simulation(100, 4, 60, 4)
    for prompt in ([5] * 40, [5] * 40, [7, 8]):
        run.add(prompt, 50)
    events = run.step()
    assert [event.request for event in events] == [0, 2]
    assert ids(run.scheduler.waiting) == [1]


def test_those_who_wait_for_a_prefix_keep_their_places(simulation: Simulate) -> None:
    """Of three places one computes the prefix and two are kept for those who wait for it."""
    run = simulation(100, 4, 60, 3)
    for number in range(3):
        run.add([5] * 40 + [number + 1], 45)
    run.add([7, 8], 50)
    run.step()
    assert ids(run.scheduler.running) == [0]
    run.step()
    assert ids(run.scheduler.running) == [0, 1, 2]


def test_when_the_one_who_computes_leaves_another_takes_over(simulation: Simulate) -> None:
    run = simulation(100, 4, 8, 8)
    for number in range(3):
        run.add([5] * 40 + [number + 1], 42)
    run.step()
    assert ids(run.scheduler.running) == [0]
    assert run.scheduler.abort(0)
    run.step()
    assert ids(run.scheduler.running) == [1]
    assert run.sequences[1].cached_tokens == 8  # what the first left behind
    run.finish()
    assert len(run.events[1]) == len(run.events[2]) == 1
    assert run.rows == 8 + 33 + 1


def test_the_next_turn_of_a_conversation_finds_question_and_answer(simulation: Simulate) -> None:
    run = simulation(100, 4, 64, 8)
    first = run.add([5] * 10, 30)
    run.finish()
    second = run.add([*first.tokens, 9, 9], 33)
    run.step()
    assert second.cached_tokens == 28  # the last of thirty tokens was never computed


def test_one_who_gave_way_finds_his_own_pages(simulation: Simulate) -> None:
    run = simulation(8, 4, 32, 8)
    for number in range(2):
        run.add([number + 1] * 12, 30)
    while not run.scheduler.counters.preempted:
        run.step()
    assert run.scheduler.abort(0)
    before = run.rows
    run.step()
    assert 0 < run.rows - before <= 8
    assert run.sequences[1].cached_tokens == 0  # no other request had computed them


def test_a_hit_leaves_a_token_to_sample_from(simulation: Simulate) -> None:
    run = simulation(100, 4, 64, 8)
    run.add([5] * 8, 9)
    run.finish()
    again = run.add([5] * 8, 9)
    run.finish()
    assert again.cached_tokens == 7
    assert len(run.events[1]) == 1


def test_many_answers_to_one_prompt_compute_it_once(simulation: Simulate) -> None:
    run = simulation(100, 4, 64, 16)
    for _ in range(8):
        run.add([7, 8, 9, 10, 11, 12, 13], 10)
    assert [event.request for event in run.step()] == [0]  # the others wait for its last page
    assert {event.request for event in run.step()} == set(range(8))
    run.finish()
    assert [sequence.cached_tokens for sequence in run.sequences] == [0] + [6] * 7
    assert run.rows == 7 + 7 + 8 * 2  # the prompt, its last token for the others, all answers but their last
    assert len({tuple(sequence.tokens) for sequence in run.sequences}) == 1


def test_those_who_wait_for_a_last_page_find_it_when_its_holder_has_ended(simulation: Simulate) -> None:
    run = simulation(100, 4, 64, 16)
    for _ in range(8):
        run.add([7, 8, 9], 4)
    run.step()
    assert ids(run.scheduler.running) == []
    run.step()
    assert run.scheduler.idle
    assert run.rows == 3 + 7


def test_a_last_page_is_found_by_a_prompt_that_ends_otherwise(simulation: Simulate) -> None:
    run = simulation(100, 4, 64, 16)
    run.add([7, 8, 9, 10, 11, 12, 13], 12)
    run.step()
    other = run.add([7, 8, 9, 10, 11, 12, 14], 12)
    shorter = run.add([7, 8, 9, 10, 11, 13], 12)
    run.finish()
    assert (other.cached_tokens, shorter.cached_tokens) == (6, 4)


def test_drafts_that_hold_save_steps_and_change_nothing(simulation: Simulate) -> None:
    plain, drafted = (simulation(100, 4, 64, 8, draft_rows=rows, memory=1) for rows in (0, 8))
    for run in (plain, drafted):
        run.add([3, 1, 4, 1, 5, 9], 96)
        run.finish()
    assert plain.sequences[0].tokens == drafted.sequences[0].tokens
    assert drafted.steps < plain.steps / 2
    counters = drafted.scheduler.counters
    assert counters.accepted == plain.steps - drafted.steps
    assert counters.drafted >= counters.accepted


def test_a_draft_takes_no_page_from_others(simulation: Simulate) -> None:
    run = simulation(4, 4, 64, 8, draft_rows=8, memory=1)
    for number in range(2):
        run.add([number + 1] * 7, 9)
    run.finish()
    assert run.scheduler.counters.preempted == 0


def test_a_span_without_a_result_is_done_again_without_its_draft(simulation: Simulate) -> None:
    run = simulation(100, 4, 64, 8, draft_rows=8)
    sequence = run.add([1, 2, 3, 1, 2, 3, 1, 2], 20)
    run.step()
    sequence.tokens[-1] = 3  # as the text goes on
    (span,) = run.scheduler.schedule()
    assert span.draft
    assert run.scheduler.postprocess([span], [[]]) == []
    (again,) = run.scheduler.schedule()
    assert again == replace(span, count=1, draft=(), source="")
    assert run.scheduler.counters.drafted == 0


def test_an_error_ends_one_request_and_frees_its_pages() -> None:
    pool = BlockPool(8, 4)
    scheduler = Scheduler(pool, 8, 8)
    for number in range(2):
        scheduler.add(Sequence(number, [1 + number, 2], 2, SamplingParams(), 0, 20, frozenset()))
    events = scheduler.postprocess(scheduler.schedule(), [["it broke"], [TokenLogprob(5, -1.0)]])
    assert events[0] == Event(0, None, "error", "it broke")
    assert events[1] == Event(1, TokenLogprob(5, -1.0))
    assert pool.free == 7
    assert [sequence.id for sequence in scheduler.running] == [1]

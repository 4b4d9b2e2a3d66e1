"""What a step of the torch backend gives, takes and refuses; new weights, and adapters."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from sampan.core.errors import OutOfMemory, WeightsError
from sampan.kernels.backend import AdapterRoom, CacheSize, Span
from sampan.kernels.ops import Weight
from sampan.kernels.torch import executable
from sampan.weights.update import from_arrays

Make = Callable[..., Any]
NOISE = 2e-5


def test_the_numbers_of_a_row_are_its_logits(small: Make, ids: Make, whole: Make) -> None:
    here = small()
    rows = here.program.run([whole(ids(40), here.pages(40), 5)])
    logits = rows.logits.astype(np.float64)
    assert rows.logits.dtype == np.float32
    totals = np.log(np.exp(logits).sum(-1))
    assert rows.best == logits.argmax(-1).tolist()
    np.testing.assert_allclose(rows.log_totals, totals, rtol=0, atol=2e-6)
    np.testing.assert_allclose(rows.logprobs, logits.max(-1) - totals, rtol=0, atol=2e-6)
    assert rows.kept("hidden").shape == (40, 48)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_is_told(value: float, small: Make, ids: Make, whole: Make) -> None:
    here, text = small(), ids(5)
    with torch.inference_mode():
        here.program.weights["norm.weight"][0] = value
    assert here.program.run([whole(text, here.pages(5), 2)]).unsound == dict.fromkeys((0, 1), "in the head")


def peak(run: Callable[[], Any]) -> int:
    """The most bytes that torch held at once of those that it allocated meanwhile."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]))


@pytest.mark.parametrize(("sequences", "rows", "length"), [(1, 256, 256), (1, 256, 4096), (64, 1, 1500)])
def test_a_step_takes_no_more_than_was_said(
    sequences: int, rows: int, length: int, small: Make, ids: Make
) -> None:
    here = small(pages=64 * 47, rows=256)
    needs = here.backend.needs(here.graph, here.memory, 256)
    spans = [Span(ids(rows), length - rows, here.pages(length), 1) for _ in range(sequences)]
    here.program.run(spans)
    most = peak(lambda: here.program.run(spans))
    assert most <= needs.workspace + sequences * needs.logits
    assert here.program.workspace_bytes == needs.workspace
    assert needs.weights == sum(array.nbytes for array in here.memory.arrays.values())


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (Span([1], 0, array("i", [-1]), 1), "page outside the cache"),
        (Span([1], 0, array("i", [64]), 1), "page outside the cache"),
        (Span([1] * 33, 0, array("i", [1]), 1), "reaches past its pages"),
        (Span([5000], 0, array("i", [1]), 1), "token id outside the vocabulary"),
        (Span([-1], 0, array("i", [1]), 1), "token id outside the vocabulary"),
        (Span([1], 0, array("i", [1]), 2), "more sampled rows than rows"),
        (Span([1], 0, array("i", [1]), 1, 2), "adapter slot 2, and there are 2"),
        (Span([1], -1, array("i", [1]), 1), "begins before 0"),
        (Span([1] * 513, 0, array("i", range(17)), 1), "513 rows, from 1 to 512 have room"),
    ],
)
def test_a_span_that_makes_no_sense_is_refused(span: Span, said: str, small: Make) -> None:
    with pytest.raises(ValueError, match=said):
        small(room=AdapterRoom(2, 4)).program.run([span])


def test_no_span_is_no_step(small: Make) -> None:
    with pytest.raises(ValueError, match="0 rows"):
        small().program.run([])


def test_what_finds_no_memory_is_told(small: Make, ids: Make, whole: Make, monkeypatch: Any) -> None:
    here = small()
    with pytest.raises(OutOfMemory, match="no memory on cpu for a cache of 549755813888 tokens"):
        here.backend.compile(here.graph, here.weights, CacheSize(2**34, "f32"), 8)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(executable, "evaluate", full)
    with pytest.raises(OutOfMemory, match="no memory on cpu for a step of 4 tokens"):
        here.program.run([whole(ids(4), here.pages(4))])
    monkeypatch.setattr(executable, "evaluate", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):  # another fault stays what it is
        here.program.run([whole(ids(4), here.pages(4))])


def test_new_values_take_the_place_of_weights(small: Make, ids: Make, whole: Make) -> None:
    here, text = small(), ids(30)
    rng = np.random.default_rng(3)
    new = {
        name: rng.normal(0.5, 0.2, here.memory.arrays[name].shape) for name in ("norm.weight", "0.q.weight")
    }
    here.program.update(from_arrays(new))
    found = here.program.run([whole(text, here.pages(30), 30)]).logits
    expected = here.expected(text, **{name: values.astype(np.float32) for name, values in new.items()})
    assert np.abs(found - expected).max() <= NOISE * np.ptp(expected)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("other.weight", np.ones(48), "tensor 'other.weight' has no place in the model"),
        ("1.norm.weight", np.ones(47), r"tensor 1.norm.weight has shape \[47\], the model's is \[48\]"),
        ("1.norm.weight", np.full(48, np.nan), "tensor 1.norm.weight holds values that are not finite"),
    ],
)
def test_an_update_is_whole_or_not_at_all(name: str, values: np.ndarray, said: str, small: Make) -> None:
    here = small()
    before = {name: weight.clone() for name, weight in here.program.weights.items()}
    with pytest.raises(WeightsError, match=f"the update: {said}"):
        here.program.update(from_arrays({"0.norm.weight": np.zeros(48), name: values}))
    assert all(torch.equal(weight, before[name]) for name, weight in here.program.weights.items())


@dataclass
class Part:
    weight: Weight
    low: np.ndarray
    high: np.ndarray
    key: str

    def a(self) -> np.ndarray:
        return self.low

    def b(self) -> np.ndarray:
        return self.high


def test_each_row_has_its_own_adapter(small: Make, ids: Make) -> None:
    here = small(room=AdapterRoom(2, 4))
    rng, merged = np.random.default_rng(4), []
    for slot, names in enumerate((["0.q.weight", "0.v.weight"], ["1.out.weight", "down.weight"])):
        parts: list[Part] = []
        for name in names:
            outputs, inputs = here.memory.arrays[name].shape
            key, high = name.split(".")[0], rng.normal(0, 0.3, (outputs, 4)).astype(np.float32)
            low = next((p.low for p in parts if p.key == key), rng.normal(0, 0.3, (4, inputs)))
            parts.append(Part(Weight(name, (outputs, inputs)), low.astype(np.float32), high, key))
        here.program.set_adapter(slot, type("Lora", (), {"where": "here", "parts": parts}))
        merged.append({p.weight.name: here.memory.arrays[p.weight.name] + p.high @ p.low for p in parts})
    texts, slots = [ids(n, n) for n in (20, 11, 1, 30)], (0, -1, 1, 1)
    pages = [here.pages(len(text)) for text in texts]
    spans = [Span(t, 0, p, 1, s) for t, p, s in zip(texts, pages, slots, strict=True)]
    for found, text, slot in zip(here.program.run(spans).logits, texts, slots, strict=True):
        expected = here.expected(text, **(merged[slot] if slot >= 0 else {}))[-1]
        assert np.abs(found - expected).max() <= NOISE * np.ptp(expected)
    here.program.clear_adapter(0)
    assert not np.allclose(here.program.run(spans[:1]).logits, here.expected(texts[0], **merged[0])[-1])

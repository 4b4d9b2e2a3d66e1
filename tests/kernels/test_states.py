"""What sequences carry from step to step: the native kernels against PyTorch, and the door that keeps one
sequence's state from another."""

from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sampan.core.errors import UnsupportedModel
from sampan.core.settings import Settings
from sampan.kernels.backend import AdapterRoom, CacheSize, Span
from sampan.kernels.cpu import _native
from sampan.kernels.cpu.backend import CpuBackend
from sampan.kernels.ops import Batch, Convolution, DeltaRule, Linear, Ops, Weight
from sampan.kernels.recorder import Recorder, record
from sampan.kernels.torch.backend import TorchBackend
from sampan.models.registry import load_file

graphs = load_file(Path(__file__).parent / "test_graph.py")
PAGES = array("i", [0, 1])


def rule_of(layer: int, heads: int, key_heads: int, key: int, value: int) -> DeltaRule:
    vectors = (Weight(f"{kind}{layer}", (heads,)) for kind in ("decay", "bias"))
    return DeltaRule(layer, heads, key_heads, key, value, *vectors)


def convolution_of(layer: int, channels: int, taps: int) -> Convolution:
    return Convolution(layer, Weight(f"taps{layer}", (channels, taps)))


def carried(ops: Ops, batch: Batch) -> Any:
    """Heads that share keys and heads that do not, values of five vectors, joined parts, states that are read
    where they lie and where they do not."""
    x = graphs.embed(ops, batch)
    rule = rule_of(3, 6, 2, 16, 80)
    parts = tuple(Weight(f"in{n}", (size, 64)) for n, size in enumerate((32, 32, 480, 6, 6)))
    qkv, b, a = ops.linear(x, Linear(parts, joined=(3, 1, 1)))
    y = ops.delta(ops.convolve(qkv, batch.cache, convolution_of(3, 544, 4)), b, a, batch.cache, rule)
    x = ops.keep(x + ops.linear(y, graphs.linear("out", 480, 64)), "first")
    other = ops.convolve(x, batch.cache, convolution_of(0, 64, 2))
    x = ops.keep(other, "both") + x
    gates = ops.linear(x, graphs.linear("gates", 64, 2))
    y = ops.delta(other, gates, gates, batch.cache, rule_of(7, 2, 1, 16, 16))
    return graphs.finish(ops, batch, x + ops.concat([y, y]))


def oddly_carried(ops: Ops, batch: Batch) -> Any:
    """Heads and channels of no whole vectors, in joined parts of two sizes that are none, one of them added
    whole; a value that is read again after it was convolved, and one of channels of none."""
    x = graphs.embed(ops, batch)
    rule = rule_of(3, 4, 2, 24, 40)
    parts = tuple(Weight(f"in{n}", (size, 64)) for n, size in enumerate((24, 24, 24, 24, 80, 80, 4, 4)))
    qkv, b, a = ops.linear(x, Linear(parts, joined=(6, 1, 1)))
    y = ops.delta(ops.convolve(qkv, batch.cache, convolution_of(3, 256, 4)), b, a, batch.cache, rule)
    x = ops.keep(x + ops.linear(y, graphs.linear("out", 160, 64)), "first")
    sum_of = Linear(tuple(Weight(f"to{n}", (size, 64)) for n, size in enumerate((24, 20, 20))), joined=(3,))
    x = x + ops.linear(x, sum_of)
    narrow, rest = ops.split(ops.linear(x, graphs.linear("some", 64, 64)), [41, 23])
    other = ops.convolve(narrow, batch.cache, convolution_of(0, 41, 3))
    gates = ops.linear(x, graphs.linear("gates", 64, 3))
    z = ops.delta(other, gates, gates, batch.cache, rule_of(7, 3, 1, 7, 9))
    return graphs.finish(
        ops, batch, x + ops.concat([ops.keep(z, "z"), rest, *ops.split(narrow, [14, 27])[:1]])
    )


@pytest.mark.parametrize("forward", [carried, oddly_carried])
@pytest.mark.parametrize("room", [None, AdapterRoom(2, 8)], ids=["plain", "with room for adapters"])
def test_a_program_with_states_computes_what_it_says(room: AdapterRoom | None, forward: Any) -> None:
    graphs.check(forward, room)


@pytest.mark.parametrize("forward", [carried, oddly_carried])
@pytest.mark.parametrize("isa", _native.isas())
def test_how_a_sequence_is_cut_and_who_runs_beside_it_change_no_bit(isa: str, forward: Any) -> None:
    ids = list(range(60))
    found = []
    for threads, cuts in ((1, [60]), (2, [1, 7, 8, 9, 35]), (2, [33, 27])):
        graph = record(forward)
        backend = CpuBackend(Settings(Path(), isa=isa, tune=False), threads)
        program = backend.compile(graph, backend.place(graphs.Memory(graph)), CacheSize(3, "f32", 4), 80)
        rows, start, reads = [], 0, -1
        for place, count in enumerate(cuts):
            writes = place % 2 if place < 2 else reads  # elsewhere, and then in place
            own = Span(ids[start : start + count], start, PAGES, count, reads=reads, writes=writes)
            other = Span([5] * 9, 0, array("i", [2]), 0, reads=-1, writes=3)
            rows.append(program.run([own, other]).logits.copy())
            start, reads = start + count, writes
        found.append(np.concatenate(rows))
    for other_found in found[1:]:
        assert np.array_equal(found[0], other_found)


def test_a_state_that_is_read_stays_as_it_is() -> None:
    """What a draft does can be taken back, and many begin where one ended."""
    graph = record(carried)
    for backend in (graphs.BACKEND, TorchBackend()):
        program = backend.compile(graph, backend.place(graphs.Memory(graph)), CacheSize(3, "f32", 4), 48)
        program.run([Span([1, 2, 3], 0, PAGES, 1, reads=-1, writes=0)])
        once = program.run([Span([4, 5], 3, PAGES, 2, reads=0, writes=1)]).logits.copy()
        both = [Span([4, 5], 3, array("i", [page]), 2, reads=0, writes=2 + page) for page in (0, 1)]
        found = program.run(both).logits
        assert np.allclose(found, np.concatenate([once, once]), atol=1e-5)
        assert backend.name == "torch" or np.array_equal(found, np.concatenate([once, once]))


def test_no_step_writes_what_another_span_has() -> None:
    graph = record(carried)
    for backend in (graphs.BACKEND, TorchBackend()):
        program = backend.compile(graph, backend.place(graphs.Memory(graph)), CacheSize(3, "f32", 3), 48)
        for mine, theirs in (((-1, 0), (-1, 0)), ((-1, 0), (0, 1)), ((3, 0), (-1, 1)), ((-2, 0), (-1, 1)),
                             ((0, -1), (-1, 1)), ((0, 3), (-1, 1))):  # fmt: skip
            spans = [
                Span([1], 0, array("i", [page]), 1, reads=reads, writes=writes)
                for page, (reads, writes) in enumerate((mine, theirs))
            ]
            with pytest.raises(ValueError, match="state"):
                program.run(spans)
        with pytest.raises(ValueError, match="state"):
            program.run([Span([1], 0, PAGES, 1)])


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (lambda o, x: o.convolve(x, None, convolution_of(1, 32, 4)), "layer 1: 32 channels by 4 taps, of 64"),
        (lambda o, x: o.convolve(x, None, convolution_of(1, 64, 1)), "layer 1: 64 channels by 1 taps"),
        (lambda o, x: [o.convolve(x, None, convolution_of(1, 64, 2)) for _ in "ab"], "has a state already"),
        (lambda o, x: o.delta(x, x, x, None, rule_of(2, 3, 2, 16, 16)), "3 heads share 2"),
        (lambda o, x: o.delta(x, x, x, None, rule_of(2, 2, 1, 16, 16)), "b has 64 features, its heads 2"),
        (lambda o, x: o.linear(x, Linear((Weight("a", (8, 64)),) * 2, joined=(1, 2))), "joins"),
    ],
)  # fmt: skip
def test_a_shape_that_is_wrong_is_named_when_it_is_recorded(forward: Any, said: str) -> None:
    recorder, batch = Recorder(), Batch(None, None, None, None)
    x = graphs.embed(recorder, batch)
    with pytest.raises(UnsupportedModel, match=said):
        forward(recorder, x)


@pytest.mark.parametrize(
    ("key", "value", "taps", "said"),
    [
        (257, 16, 4, "257: 256 at most"),
        (16, 16, 17, "17 taps"),
    ],
)
def test_what_the_kernels_lack_is_refused_by_name(key: int, value: int, taps: int, said: str) -> None:
    def forward(ops: Ops, batch: Batch) -> Any:
        rule = rule_of(5, 2, 2, key, value)
        x = ops.linear(graphs.embed(ops, batch), graphs.linear("x", 64, rule.width))
        b, a = ops.linear(graphs.embed(ops, batch), graphs.linear("gates", 64, 2, 2))
        y = ops.convolve(x, batch.cache, convolution_of(5, rule.width, taps))
        return ops.keep(ops.delta(y, b, a, batch.cache, rule), "out")

    with pytest.raises(UnsupportedModel, match=rf"of layer 5: .*{said}"):
        graphs.BACKEND.check(record(forward), "a model")

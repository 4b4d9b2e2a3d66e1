"""A shape that is wrong, or that the native kernels lack, is refused by name before anything is computed."""

from pathlib import Path
from typing import Any

import pytest

from sampan.core.errors import UnsupportedModel
from sampan.core.settings import Settings
from sampan.kernels.cpu.backend import CpuBackend
from sampan.kernels.ops import Attention, Batch, Convolution, DeltaRule, Linear, Norm, Ops, Rope, Weight
from sampan.kernels.recorder import Recorder, record

BACKEND = CpuBackend(Settings(Path(), tune=False), 1)


def embed(ops: Ops, batch: Batch) -> Any:
    """64 features."""
    return ops.embed(Weight("embed.weight", (97, 64)), batch.ids)


def linear(name: str, inputs: int, outputs: int) -> Linear:
    return Linear.of(name, sizes=(outputs,), inputs=inputs)


def parts(*sizes: int) -> tuple[Weight, ...]:
    return tuple(Weight(f"{n}.weight", (size, 64)) for n, size in enumerate(sizes))


def delta(key: int, value: int) -> DeltaRule:
    return DeltaRule(0, 2, 2, key, value, Weight("decay", (2,)), Weight("bias", (2,)))


def norm(name: str, size: int) -> Norm:
    return Norm(Weight(f"{name}.weight", (size,)), 1e-5)


def rope(head: int, size: int, first: int = 0) -> Rope:
    return Rope((1.0,) * (size // 2), head, 1.0, "half", first)


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (lambda o, x, _: o.norm(x, norm("odd", 48)), "norm odd: 64 features are no runs of 48"),
        (lambda o, x, _: o.linear(x, linear("wide", 96, 32)), r"wide.weight reads 96 features"),
        (lambda o, x, _: x + o.split(x, [32, 32])[0], "add: 64 features and 32"),
        (lambda o, x, _: o.split(x, [32, 31]), r"split: \[32, 31\] of 64 features"),
        (lambda o, x, b: o.rope(x, b.positions, rope(48, 48)), "rope: 64 features are no heads of 48"),
        (lambda o, x, b: o.rope(x, b.positions, rope(32, 32, 8)), "rope: 32 features from 8 on"),
        (lambda o, x, _: o.attend(x, x, x, None, Attention(3, 3, 2, 32, 32, 1.0)), "layer 3: 3 heads"),
        (lambda o, x, _: o.attend(x, x, x, None, Attention(3, 2, 1, 32, 32, 1.0)), "layer 3: k has 64"),
        (lambda o, x, _: o.rows(o.rows(x, None), None), "rows: of rows that are the sample already"),
        (lambda o, x, _: x + o.rows(x, None), "add: some inputs are the step's rows"),
        (lambda o, x, _: o.keep(o.keep(x, "a"), "a"), "keep: 'a' is kept already"),
    ],
)  # fmt: skip
def test_a_shape_that_is_wrong_is_named_when_it_is_recorded(forward: Any, said: str) -> None:
    recorder, batch = Recorder(), Batch(None, None, None, None)
    x = embed(recorder, batch)
    with pytest.raises(UnsupportedModel, match=said):
        forward(recorder, x, batch)


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (lambda o, x, _: o.convolve(x, None, Convolution(0, Weight("c", (64, 17)))), "17 taps: 16 at most"),
    ],
)  # fmt: skip
def test_a_shape_that_the_kernels_lack_is_refused_by_name(forward: Any, said: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"a model: .*{said}"):
        BACKEND.check(record(lambda ops, batch: forward(ops, embed(ops, batch), batch)), "a model")

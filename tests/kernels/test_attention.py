"""Rotary embedding, the paged cache and attention against float64; the same bits however a prompt is fed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import pytest

EPS = 1e-6


@dataclass(frozen=True)
class Shape:
    heads: int
    kv_heads: int
    head_dim: int
    cache: str = "f32"
    norms: bool = False
    rope_scale: float = 1.0

    @property
    def width(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def out(self) -> int:
        return self.heads * self.head_dim

    @property
    def inv_freq(self) -> np.ndarray:
        return 10000.0 ** (-np.arange(0, self.head_dim, 2) / self.head_dim)

    @property
    def norm_weights(self) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
        rng = np.random.default_rng(9)
        q, k = (rng.normal(1, 0.2, self.head_dim).astype(np.float32) for _ in range(2))
        return (q, k) if self.norms else (None, None)


def projections(shape: Shape, tokens: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (tokens, shape.width)).astype(np.float32)


def program_of(
    small: Callable[..., Any], isa: str, shape: Shape, qkv: np.ndarray, *, attends: bool = True, **sizes: Any
) -> Any:
    """A layer's attention over rows of `qkv`, in the second of two layers; the result is what it gives."""
    program = small(
        isa, rows=len(qkv), cache=shape.cache, layers=2, kv_heads=shape.kv_heads, head_dim=shape.head_dim,
        **sizes,
    )  # fmt: skip
    table = program.angles(shape.inv_freq, shape.rope_scale)
    buffer = program.values(qkv)
    k_offset, v_offset = shape.out, shape.out + shape.kv_heads * shape.head_dim
    q_norm, k_norm = shape.norm_weights
    turns = (q_norm, EPS, table, 0, False, shape.head_dim**-0.5), (k_norm, EPS, table, 0, False, 1.0)
    program.append(buffer, k_offset, v_offset, shape.heads, 1, *turns)
    if not attends:
        program.result(buffer, shape.width)
        return program
    out = program.buffer(shape.out)
    program.add("attend", x=buffer, out=out, heads=shape.heads, layer=1)
    program.result(out, shape.out)
    return program


def rotated(
    shape: Shape, qkv: np.ndarray, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries [T, heads, D] (scaled), keys and values [T, KV heads, D] in float64."""
    x = qkv.astype(np.float64).reshape(len(qkv), -1, shape.head_dim)
    q, k, v = np.split(x, [shape.heads, shape.heads + shape.kv_heads], axis=1)
    if shape.norms:
        q, k = (
            a / np.sqrt((a**2).mean(2, keepdims=True) + EPS) * w
            for a, w in zip((q, k), shape.norm_weights, strict=True)
        )
    angles = positions[:, None] * shape.inv_freq
    cos, sin = (shape.rope_scale * f(angles)[:, None] for f in (np.cos, np.sin))

    def turn(a: np.ndarray) -> np.ndarray:
        low, high = np.split(a, 2, axis=2)
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=2)

    return turn(q) * shape.head_dim**-0.5, turn(k), v


def bfloat16(x: np.ndarray) -> np.ndarray:
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return (
        ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16)
        .astype(np.uint32)
        .view(np.float32)
        .astype(np.float64)
    )


def int8(x: np.ndarray) -> np.ndarray:
    """Codes of -127 to 127 with one float32 scale for each token and head."""
    scale = (np.abs(x).max(axis=-1, keepdims=True) / 127).astype(np.float32).astype(np.float64)
    return np.rint(x / np.where(scale == 0, 1, scale)) * scale


def attended(shape: Shape, qkv: np.ndarray) -> np.ndarray:
    """Causal attention of one sequence, [T, heads * D]; a bf16 cache rounds queries and probabilities too."""
    q, k, v = rotated(shape, qkv, np.arange(len(qkv)))
    if shape.cache == "bf16":
        q, k, v = bfloat16(q), bfloat16(k), bfloat16(v)
    if shape.cache == "int8":
        k, v = int8(k), int8(v)
    k, v = (np.repeat(a, shape.heads // shape.kv_heads, axis=1) for a in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k)
    scores[:, ~np.tri(len(qkv), dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    total = weights.sum(axis=2, keepdims=True)
    if shape.cache == "bf16":
        weights = bfloat16(weights)
    return np.einsum("hqk,khd->qhd", weights / total, v).reshape(len(qkv), -1)


SHAPES = [
    Shape(4, 4, 32), Shape(9, 3, 64, "bf16"), Shape(8, 1, 96, "f32", norms=True),
    Shape(14, 2, 64, "bf16", rope_scale=1.2), Shape(4, 2, 128, "bf16", norms=True),
    Shape(9, 3, 64, "int8"), Shape(8, 1, 96, "int8", norms=True),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_rope_turns_queries_and_keys_and_leaves_values(
    shape: Shape, isa: str, small: Callable[..., Any]
) -> None:
    qkv = projections(shape, 40)
    got, _ = program_of(small, isa, shape, qkv, attends=False).run((40, 70, range(4)))
    q, k, v = rotated(shape, qkv, np.arange(70, 110))
    exact = np.concatenate([q, k, v], axis=1).reshape(40, -1)
    np.testing.assert_allclose(got, exact, rtol=2e-6, atol=2e-6)
    assert np.array_equal(
        got[:, -shape.kv_heads * shape.head_dim :], qkv[:, -shape.kv_heads * shape.head_dim :]
    )


def tolerance(shape: Shape) -> float:
    """A key that rounds to its other neighbour moves a score by 2^-9 or 2^-8 (int8) of the largest."""
    return {"bf16": 2e-3, "int8": 1e-2}.get(shape.cache, 5e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
@pytest.mark.parametrize("tokens", [1, 33, 80])
def test_attention_is_causal_softmax_attention(
    shape: Shape, tokens: int, isa: str, small: Callable[..., Any]
) -> None:
    qkv = projections(shape, tokens)
    got, _ = program_of(small, isa, shape, qkv).run((tokens, 0, (2, 0, 3)))
    np.testing.assert_allclose(got, attended(shape, qkv), atol=tolerance(shape))


def test_attention_over_several_splits_of_the_context(isa: str, small: Callable[..., Any]) -> None:
    shape = Shape(2, 1, 32)
    qkv = projections(shape, 1100)
    pages = np.random.default_rng(1).permutation(36)[:35]
    got, _ = program_of(small, isa, shape, qkv, pages=36).run((1100, 0, pages))
    np.testing.assert_allclose(got, attended(shape, qkv), atol=5e-6)


def fed(program: Any, sizes: Iterator[int], tokens: int, pages: Sequence[int]) -> np.ndarray:
    """The rows of one prompt appended in chunks of these sizes."""
    rows, first = [], 0
    while first < tokens:
        size = min(next(sizes), tokens - first)
        logits, _ = program.run((size, first, pages), ids=range(first, first + size))
        rows.append(logits)
        first += size
    return np.concatenate(rows)


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_a_prompt_gives_the_same_bits_in_chunks_of_any_size(
    shape: Shape, isa: str, small: Callable[..., Any]
) -> None:
    tokens, pages = 100, (3, 1, 0, 2)
    qkv = projections(shape, tokens)
    whole = fed(program_of(small, isa, shape, qkv), count(tokens), tokens, pages)
    assert np.array_equal(whole, fed(program_of(small, "scalar", shape, qkv), count(tokens), tokens, pages))
    rng = np.random.default_rng(8)
    for largest in (1, 7, 50):
        sizes = (int(rng.integers(1, largest + 1)) for _ in count())
        assert np.array_equal(whole, fed(program_of(small, isa, shape, qkv), sizes, tokens, pages))


@pytest.mark.parametrize("cache", ["bf16", "f32", "int8"])
def test_sequences_in_one_step_do_not_see_each_other(cache: str, isa: str, small: Callable[..., Any]) -> None:
    shape = Shape(6, 2, 64, cache)
    qkv = projections(shape, 90)
    first, second = np.arange(50), np.arange(50, 90)
    alone = []
    for ids in (first, second):
        got, _ = program_of(small, isa, shape, qkv).run((len(ids), 0, (0, 1)), ids=ids)
        alone.append(got)
    program = program_of(small, isa, shape, qkv, pages=5)
    program.run((49, 0, (4, 1)), (39, 0, (0, 2)), ids=[*first[:-1], *second[:-1]])
    together, _ = program.run((1, 49, (4, 1)), (1, 39, (0, 2)), ids=[first[-1], second[-1]])
    assert np.array_equal(together, np.stack([rows[-1] for rows in alone]))

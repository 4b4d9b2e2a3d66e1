"""Small native programs, and raw bytes of every format, for the tests of the kernels."""

from array import array
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from sampan.kernels.cpu import _native, panels
from sampan.kernels.cpu.layout import Layout
from sampan.kernels.formats import Codes, TensorType, codes, form_of
from sampan.kernels.ops import Linear, Weight

F32 = TensorType.F32.number
# Byte offsets of each float16 in a block: these are small numbers, every other byte may be anything.
HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "TQ1_0": (52,), "TQ2_0": (64,), "IQ1_M": (), "MXFP4": (),
}  # fmt: skip


class Small:
    """A program under construction. Row i of a step reads row i of the values it was given."""

    NONE = (None, 0.0, -1, 0, False, 1.0)  # heads that are not turned

    def __init__(
        self, pool: Any, isa: str, *, rows: int = 64, pages: int = 4, cache: str = "f32", layers: int = 1,
        kv_heads: int = 1, head_dim: int = 32, value_size: int | None = None,
    ) -> None:  # fmt: skip
        self.pool, self.rows, self.used = pool, rows, 0
        shape = kv_heads, head_dim, value_size or head_dim
        self.program = _native.Program(pool, isa, rows, pages, cache, [shape] * layers)
        self.program.reserve(2**25)

    def take(self, size: int) -> int:
        """Where the next piece of the program's memory begins."""
        offset, self.used = self.used, self.used + -(-size // 64) * 64
        return offset

    def add(self, op: str, **fields: Any) -> None:
        """An instruction by the names of its fields; a buffer alone is its first feature."""
        places = {
            k: v if isinstance(v, tuple) else (v, 0) for k, v in fields.items() if k in ("x", "y", "z", "out")
        }
        self.program.add(op, fields | places)

    def buffer(self, width: int) -> int:
        return self.program.buffer(self.take(4 * self.rows * max(width, 0)), width)

    def activations(self, k: int, operand: int) -> int:
        return self.program.activations(
            self.take(_native.activation_bytes(self.rows, k, operand)), k, operand
        )

    def angles(self, inv_freq: Sequence[float], scale: float = 1.0) -> int:
        """A table of angles, which each step fills."""
        offset = self.take(8 * self.rows * len(inv_freq))
        table = self.program.angles(offset, list(inv_freq), scale)
        self.add("angles", table=table)
        return table

    def append(
        self, qkv: int, k: int, v: int, heads: int, layer: int = 0, turn: Any = NONE, k_turn: Any = NONE
    ) -> None:
        self.add("append", x=qkv, y=(qkv, k), z=(qkv, v), heads=heads, layer=layer, turn=turn, k_turn=k_turn)

    def floats(self, values: np.ndarray) -> Any:
        """A packed float32 matrix."""
        matrix = _native.Packed.of(*values.shape, F32)
        raw = np.ascontiguousarray(values, np.float32).view(np.uint8).reshape(-1)
        matrix.fill(self.pool, raw, F32, 0, len(values))
        return matrix

    def bf16(self, values: np.ndarray) -> Any:
        """A packed bf16 matrix; the values have no more bits."""
        type = TensorType.BF16.number
        matrix = _native.Packed.of(*values.shape, type)
        raw = (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype("<u2")
        matrix.fill(self.pool, raw.view(np.uint8).reshape(-1), type, 0, len(values))
        return matrix

    def values(self, values: np.ndarray) -> int:
        """A buffer that a step fills with rows of `values` [rows, width]."""
        return self.embed(self.floats(values))

    def embed(self, table: Any) -> int:
        buffer = self.buffer(table.k)
        self.add("embed", matrix=table, out=buffer)
        return buffer

    def prepare(
        self, buffer: int, k: int, *, op: str = "copy", operand: int = 0, offset: int = 0, up: int = 0,
        weight: np.ndarray | None = None, eps: float = 0.0, sampled: bool = False, fine: bool = False,
    ) -> int:  # fmt: skip
        act = self.activations(k, operand)
        self.add(
            "prepare", prep=op, x=(buffer, offset), up=up, weight=weight, eps=eps, act=act, sampled=sampled,
            gathers=sampled, fine=fine,
        )  # fmt: skip
        return act

    def linear(
        self, matrix: Any, act: int, out: int, *, offset: int = 0, bias: np.ndarray | None = None,
        accumulate: bool = False, sampled: bool = False, fine: bool = False,
    ) -> None:  # fmt: skip
        self.add(
            "linear", matrix=matrix, act=act, out=(out, offset), weight=bias, accumulate=accumulate,
            sampled=sampled, fine=fine,
        )  # fmt: skip

    def result(self, buffer: int, width: int) -> None:
        """The step's logits are this buffer: a product with the identity, which is exact."""
        self.head(self.prepare(buffer, width, sampled=True), np.eye(width, dtype=np.float32))

    def head(self, act: int, weights: np.ndarray) -> None:
        padded = -(-len(weights) // _native.LANES) * _native.LANES
        logits = self.program.logits(padded, len(weights))
        self.linear(self.floats(weights), act, logits, sampled=True)
        self.add("stats", x=logits, sampled=True)

    def run(
        self,
        *spans: tuple[int, int, Sequence[int]],
        ids: Sequence[int] | None = None,
        targets: Sequence[int] = (),
    ) -> tuple[np.ndarray, "Summary"]:
        """Logits and summary of every row. `spans`: rows, tokens before, pages. `targets`: of each span."""
        spans = spans or ((len(ids or ()), 0, range(4)),)
        left = iter(range(sum(count for count, _, _ in spans)) if ids is None else ids)
        found = self.program.run(
            [
                (list(islice(left, count)), past, array("i", pages), count, -1, targets, -1, -1)
                for count, past, pages in spans
            ]
        )
        return self.program.sampled_logits.copy(), Summary(*found)


class Summary(NamedTuple):
    """What a step tells of its sampled rows."""

    best: list[int]
    logprobs: list[float]
    log_totals: list[float]
    unsound: dict[int, int]
    chosen: list[float]
    held: list[int]


@pytest.fixture(scope="session")
def pool() -> Any:
    """Two threads for every test that does not ask for its own."""
    return _native.Pool(2)


@pytest.fixture(params=_native.isas())
def isa(request: pytest.FixtureRequest) -> str:
    """Each instruction set of this machine."""
    return str(request.param)


@pytest.fixture
def small(pool: Any) -> Callable[..., Small]:
    """`small(isa, ...)`: an empty program."""
    return lambda isa="", **sizes: Small(sizes.pop("pool", pool), isa, **sizes)


@pytest.fixture
def random_raw() -> Callable[..., np.ndarray]:
    """`random_raw(type, rows, columns)`: the bytes of a random matrix of that format."""

    def make(type: TensorType, rows: int, columns: int, seed: int = 7) -> np.ndarray:
        rng = np.random.default_rng(seed)
        if not type.quantised:
            values = rng.normal(0, 0.05, (rows, columns)).astype(np.float32)
            bits = values.view(np.uint32) >> 16 if type is TensorType.BF16 else values
            kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[type.name]
            return bits.astype(kind).reshape(-1).view(np.uint8)
        blocks = rng.integers(0, 256, (rows * columns // type.block, type.block_bytes), np.uint8)
        if type is TensorType.MXFP4:
            blocks[:, 0] = rng.integers(118, 124, len(blocks))  # powers of two
        if type is TensorType.IQ1_M:
            blocks[:, 55] = blocks[:, 55] & 0x8F | 0x20  # the sign and the exponent of its float16
        for offset in HALVES.get(type.name, (0,)):
            scales = rng.normal(0, 0.02, len(blocks)).astype("<f2")
            blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(-1, 2)
        return blocks.reshape(-1)

    return make


class OneTensor:
    """See `backend.Tensors`: one tensor of a file, by any name."""

    where = "a test"
    packed: Mapping[str, Any] = {}

    def __init__(self, raw: np.ndarray, type: TensorType, shape: tuple[int, int]) -> None:
        self._bytes, self._type, self._shape = raw.reshape(shape[0], -1), type, shape

    def info(self, _name: str) -> Any:
        return SimpleNamespace(type=self._type, shape=self._shape, form=form_of(self._type), turned=False)

    def raw(self, _name: str, start: int, stop: int) -> np.ndarray:
        return self._bytes[start:stop].reshape(-1)

    def codes(self, name: str, start: int, stop: int) -> Codes:
        return codes(self.raw(name, start, stop), self._type, (stop - start, self._shape[1]))

    def row_order(self, _name: str) -> None:
        return None

    def release(self, *_: object) -> None:
        pass


@pytest.fixture
def packed_raw(pool: Any) -> Callable[..., Any]:
    """`packed_raw(raw, type, n, k)`: the matrix that these bytes of a file become."""

    def make(raw: np.ndarray, type: TensorType, n: int, k: int) -> Any:
        tensors, part = OneTensor(raw, type, (n, k)), Weight("some.weight", (n, k))
        matrix = panels.pack(tensors, [part], SimpleNamespace(pool=pool, threads=2))
        (segment,) = Layout(tensors).segments(Linear((part,)))
        assert (segment.n, segment.k, segment.nbytes) == (n, k, matrix.data.nbytes)
        return matrix

    return make

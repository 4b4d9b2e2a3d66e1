"""The small set of operations that a model file is written against.

A model is first described by names and shapes (`Weight`, `Linear`, `Norm`), then run by a backend: the
recorder in `program.py` (native kernels) or `reference.py` (PyTorch). Shapes: T tokens of a step, S sampled
rows, H hidden, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Weight:
    """One tensor of the checkpoint: its Hugging Face name and row-major shape.

    `fine`: integer kernels give its input 16 bits instead of 8, because nothing after it averages an error
    out (last layer, head); docs/numerics.md has the figures.
    """

    name: str
    shape: tuple[int, ...]
    fine: bool = False


@dataclass(frozen=True)
class Linear:
    """Weights [out, in] that read the same input, computed together; `biases`: none, or one for each part."""

    parts: tuple[Weight, ...]
    biases: tuple[Weight, ...] = ()

    @classmethod
    def of(
        cls, *names: str, sizes: tuple[int, ...], inputs: int, bias: bool = False, fine: Sequence[bool] = ()
    ) -> "Linear":
        """Parts `name.weight` [size, inputs], with `name.bias` [size] when `bias`."""
        each = zip(names, sizes, fine or [False] * len(names), strict=True)
        parts = tuple(Weight(f"{n}.weight", (size, inputs), f) for n, size, f in each)
        biases = tuple(Weight(f"{n}.bias", (size,)) for n, size in zip(names, sizes, strict=True))
        return cls(parts, biases if bias else ())


@dataclass(frozen=True)
class Norm:
    """RMSNorm (arXiv:1910.07467): weight * x / sqrt(mean(x²) + eps)."""

    weight: Weight
    eps: float


@dataclass(frozen=True)
class Attention:
    """Sizes that the cache and the attention need; `layer` is the layer's index."""

    layer: int
    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class Batch:
    """One step's inputs as a backend understands them; a program takes the real ones as spans."""

    ids: Any
    positions: Any
    sampled: Any
    cache: Any


class Ops(Protocol):
    """What a backend offers. Values are opaque to a model file, except that residuals add with `+`."""

    def embed(self, table: Weight, ids: Any) -> Any:
        """Rows of `table` [T, H]."""

    def norm(self, x: Any, norm: Norm) -> Any:
        """RMSNorm over the last axis."""

    def head_norm(self, x: Any, norm: Norm) -> Any:
        """RMSNorm over each head of [T, heads * D]."""

    def linear(self, x: Any, weight: Linear) -> Any:
        """[T, in] -> [T, out]; a tuple when `weight` has several parts."""

    def rope(self, q: Any, k: Any, positions: Any) -> tuple[Any, Any]:
        """Rotary embedding, half-split (arXiv:2104.09864)."""

    def attend(self, q: Any, k: Any, v: Any, cache: Any, shape: Attention) -> Any:
        """Appends k and v to the cache, then causal grouped-query attention: [T, heads * D]."""

    def swiglu(self, gate_up: tuple[Any, Any]) -> Any:
        """silu(gate) * up (arXiv:2002.05202)."""

    def rows(self, x: Any, index: Any) -> Any:
        """The sampled rows [S, H]."""

    def head(self, x: Any, weight: Linear) -> Any:
        """Logits [S, vocabulary]."""

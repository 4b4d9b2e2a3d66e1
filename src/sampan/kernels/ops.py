"""The small set of operations that a model file is written against. All of them are pure.

A model is first described by names and shapes (`Weight`, `Linear`, `Norm` …), then its forward is recorded
once into a graph (`graph.py`), which a backend compiles or runs. A value may be read by any number of
operations, and `x + y` adds any two of one shape. Shapes: T tokens of a step, S sampled rows, H hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal, Protocol

HIDDEN = "hidden"
"""What families keep beside the logits: the sampled rows after the final norm, which the head reads."""
STATES = "states"
"""The same of every row of a step, which a draft is made from."""


@dataclass(frozen=True)
class Weight:
    """One tensor of the checkpoint: its Hugging Face name and row-major shape.

    `fine`: integer kernels give its input 16 bits instead of 8, because nothing after it averages an error
    out (last layer, head); docs/numerics.md has the figures. `exact`: it and its input are float32,
    whatever the file has: a router, whose choices are all or nothing. `transposed`: the file has [inputs,
    outputs]. `offset`: of a norm's weight, what is added in float32 to the file's values.
    """

    name: str
    shape: tuple[int, ...]
    fine: bool = False
    exact: bool = False
    transposed: bool = False
    offset: float = 0.0


@dataclass(frozen=True)
class Linear:
    """Weights [out, in] that read the same input, computed together; `biases`: none, or one for each part.

    `joined`: how many neighbouring parts each value is made of, one where not given.
    """

    parts: tuple[Weight, ...]
    biases: tuple[Weight, ...] = ()
    joined: tuple[int, ...] = ()

    @property
    def outputs(self) -> tuple[int, ...]:
        """Features of each value."""
        ends = accumulate(self.joined or (1,) * len(self.parts))
        sizes = [0, *accumulate(part.shape[0] for part in self.parts)]
        return tuple(b - a for a, b in pairwise([0, *(sizes[end] for end in ends)]))

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


Form = Literal["half", "interleaved"]


@dataclass(frozen=True)
class Rope:
    """Rotary embedding (arXiv:2104.09864) of features [first, first + 2 * len(inv_freq)) of each head.

    `inv_freq`: radians per position, one for each rotated pair. `scale` multiplies cos and sin (YaRN's
    attention factor). `form`: a pair is features (i, i + half) or, interleaved, (2i, 2i + 1). `head_size`:
    features of a head; what is not rotated stays as it is.
    """

    inv_freq: tuple[float, ...]
    head_size: int
    scale: float = 1.0
    form: Form = "half"
    first: int = 0

    @property
    def size(self) -> int:
        """Rotated features of a head."""
        return 2 * len(self.inv_freq)


@dataclass(frozen=True)
class Attention:
    """Sizes that attention and its cache need. `layer`: the index of its keys and values in the cache.

    `key_size`, `value_size`: features of a head. `scale`: of the scores, before softmax. `latent`: a value is
    the first `value_size` features of its key, and is not kept a second time.
    """

    layer: int
    heads: int
    kv_heads: int
    key_size: int
    value_size: int
    scale: float
    latent: bool = False

    @property
    def cached(self) -> int:
        """Numbers that the cache keeps of a token."""
        return self.kv_heads * (self.key_size + (0 if self.latent else self.value_size))


@dataclass(frozen=True)
class Convolution:
    """A causal convolution of each channel by itself, then SiLU. `weight` [channels, taps]: the last tap is
    of the row itself. `layer`: no other convolution has it."""

    layer: int
    weight: Weight

    @property
    def state(self) -> tuple[int, ...]:
        """What a sequence carries from step to step: the last rows, [taps - 1, channels]."""
        channels, taps = self.weight.shape
        return taps - 1, channels


@dataclass(frozen=True)
class DeltaRule:
    """The gated delta rule (arXiv:2412.06464), row after row in float32. With q and k of length one, q times
    key_size^-1/2, g = -exp(decay) * softplus(a + bias) and beta = sigmoid(b), each of the `heads` does

        S <- e^g S;  S <- S + k (x) beta (v - S^T k);  o = S^T q

    `key_heads` divide the heads: neighbours share q and k. `decay`, `bias`: [heads]. `layer`: no other rule
    has it.
    """

    layer: int
    heads: int
    key_heads: int
    key_size: int
    value_size: int
    decay: Weight
    bias: Weight

    @property
    def state(self) -> tuple[int, ...]:
        """What a sequence carries from step to step: S of each head, [heads, key_size, value_size]."""
        return self.heads, self.key_size, self.value_size

    @property
    def width(self) -> int:
        """Features of q, k and v together."""
        return 2 * self.key_heads * self.key_size + self.heads * self.value_size


State = Convolution | DeltaRule
"""What makes a sequence carry something besides its pages: `state`, zeros before its first token."""


@dataclass(frozen=True)
class PerHead:
    """A matrix for each head's first features; what a head has behind them stays as it is.

    `parts`: [outputs, inputs] each, or where it is `transposed` [inputs, outputs]. `head_size`: features of a
    head of the input.
    """

    parts: tuple[Weight, ...]
    head_size: int
    transposed: bool = False

    @property
    def sizes(self) -> tuple[int, int]:
        """Inputs and outputs of a head's matrix."""
        one, other = self.parts[0].shape
        return (one, other) if self.transposed else (other, one)


Scores = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class Router:
    """How a token chooses its experts, in float32: `chosen` of them, by `weight` [experts, H].

    `scores`: of the products. `bias` [experts] is added for the choice alone. Of `groups` of neighbouring
    experts only the best `groups_kept` are chosen from, by the sum of each group's best `group_top`
    (arXiv:2412.19437); what is outside has no chance at all. The chosen ones' scores are the experts'
    weights: `normalised` to the sum 1, times `scale`.
    """

    weight: Weight
    chosen: int
    scores: Scores = "softmax"
    bias: Weight | None = None
    groups: int = 1
    groups_kept: int = 1
    group_top: int = 1
    normalised: bool = True
    scale: float = 1.0


@dataclass(frozen=True)
class Experts:
    """Gated MLPs of which each token goes through a few. `gate_up`, `down`: of each expert, the first of two
    parts."""

    router: Router
    gate_up: tuple[Linear, ...]
    down: tuple[Linear, ...]


@dataclass(frozen=True)
class Batch:
    """One step's inputs as a backend understands them; a recorded graph takes the real ones when it runs.
    `given`: floats of each row, for a model that reads some."""

    ids: Any
    positions: Any
    sampled: Any
    cache: Any
    given: Any = None


class Ops(Protocol):
    """What a model may compute. Values are opaque to it, but for `+`."""

    def embed(self, table: Weight, ids: Any) -> Any:
        """Rows of `table` [T, H]."""

    def given(self, values: Any, width: int) -> Any:
        """What a step is given beside its tokens: [T, width] floats."""

    def norm(self, x: Any, norm: Norm) -> Any:
        """RMSNorm over the last axis, or over each run of features that is as long as the norm's weight."""

    def linear(self, x: Any, weight: Linear) -> Any:
        """[T, in] -> [T, out]; a tuple when `weight` gives several values."""

    def add(self, x: Any, y: Any) -> Any:
        """x + y, of one shape."""

    def scale(self, x: Any, factor: float) -> Any:
        """x * factor."""

    def gate(self, x: Any, gate: Any) -> Any:
        """x * sigmoid(gate); the gate has x's width, or one feature for all of them."""

    def swiglu(self, gate_up: tuple[Any, Any]) -> Any:
        """silu(gate) * up (arXiv:2002.05202)."""

    def split(self, x: Any, sizes: Sequence[int]) -> tuple[Any, ...]:
        """Neighbouring features of x, `sizes` of them in turn."""

    def concat(self, parts: Sequence[Any]) -> Any:
        """Features of all parts, one after another."""

    def rope(self, x: Any, positions: Any, rope: Rope) -> Any:
        """Each head of x [T, heads * head_size] rotated by its token's position."""

    def attend(self, q: Any, k: Any, v: Any, cache: Any, shape: Attention) -> Any:
        """Appends k [T, kv_heads * key_size] and v [T, kv_heads * value_size] to the cache, then causal
        grouped-query attention of q [T, heads * key_size]: [T, heads * value_size]. Of a latent one, v is
        None."""

    def convolve(self, x: Any, cache: Any, weight: Convolution) -> Any:
        """Each channel of x [T, channels] with those of the sequence's rows before it."""

    def delta(self, x: Any, b: Any, a: Any, cache: Any, rule: DeltaRule) -> Any:
        """x: q and k of the key heads and v of the heads, [T, rule.width]; b, a [T, heads]: [T, heads *
        value_size]."""

    def per_head(self, x: Any, weight: PerHead) -> Any:
        """[T, heads * (inputs + rest)] -> [T, heads * (outputs + rest)]."""

    def experts(self, x: Any, experts: Experts) -> Any:
        """The sum of what a token's experts make of it, each times its weight: [T, H]."""

    def rows(self, x: Any, index: Any) -> Any:
        """The sampled rows [S, width]."""

    def head(self, x: Any, weight: Linear) -> Any:
        """Logits [S, vocabulary]."""

    def keep(self, x: Any, name: str) -> Any:
        """x itself; whoever runs the model may ask for its values by this name."""

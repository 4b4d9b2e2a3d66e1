"""Mixtures of experts: in place of a layer's MLP, many smaller ones of which each token goes through a few.

What families share: the configuration, the weights by their names, tensors that hold all experts of a layer,
and what is computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sampan.kernels.ops import Experts, Linear, Ops, Router, Scores, Weight
from sampan.models.fields import Fields

_MOST = 2**12
_MOST_FFN = 2**17


@dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """Experts of a layer. `count` of them, of which a token goes through `chosen`; `ffn`: features inside of
    one. `shared`: features inside of the one that all tokens go through, 0 for none; `shared_gate`: that one
    is gated. What is not said here is as `Router` has it."""

    count: int
    chosen: int
    ffn: int
    shared: int = 0
    shared_gate: bool = False
    scores: Scores = "softmax"
    bias: bool = False
    groups: int = 1
    groups_kept: int = 1
    group_top: int = 1
    normalised: bool = True
    scale: float = 1.0


@dataclass(frozen=True)
class Names:
    """What a family calls its tensors below a layer. `expert`: of each, by its number."""

    router: str = "mlp.gate.weight"
    bias: str = "mlp.gate.e_score_correction_bias"
    expert: str = "mlp.experts."
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    shared: str = "mlp.shared_expert."
    shared_gate: str = "mlp.shared_expert_gate"


QWEN = Names()


@dataclass(frozen=True)
class Mlp:
    """A gated MLP."""

    gate_up: Linear
    down: Linear


@dataclass(frozen=True)
class Mixture:
    """Experts, and the one that is shared by all tokens."""

    experts: Experts
    shared: Mlp | None = None
    shared_gate: Linear | None = None


def experts_of(fields: Fields, count: str, chosen: str, ffn: str, **rest: Any) -> ExpertConfig:
    """Sizes by the names of a configuration's fields, and the rest of `ExpertConfig`."""
    c = ExpertConfig(
        count=fields.integer(count, high=_MOST),
        chosen=fields.integer(chosen, high=_MOST),
        ffn=fields.integer(ffn, high=_MOST_FFN),
        **rest,
    )
    if c.chosen > c.count // c.groups * c.groups_kept:
        within = f" in {c.groups_kept} of {c.groups} groups" if c.groups > 1 else ""
        raise fields.fail(chosen, f"is {c.chosen}, of {c.count} experts{within}")
    if c.count % c.groups:
        raise fields.fail(count, f"is {c.count}, which {c.groups} groups do not divide")
    return c


def mlp(at: str, hidden: int, ffn: int, names: Names = QWEN, *, fine: bool = False) -> Mlp:
    """Of weights below `at`."""
    gate_up = Linear.of(at + names.gate, at + names.up, sizes=(ffn, ffn), inputs=hidden, fine=(fine, fine))
    return Mlp(gate_up, Linear.of(at + names.down, sizes=(hidden,), inputs=ffn, fine=(fine,)))


def mixture(at: str, hidden: int, c: ExpertConfig, names: Names = QWEN, *, fine: bool = False) -> Mixture:
    """Of the layer whose names begin with `at`."""
    each = [mlp(f"{at}{names.expert}{n}.", hidden, c.ffn, names, fine=fine) for n in range(c.count)]
    router = Router(
        Weight(at + names.router, (c.count, hidden), exact=True),
        c.chosen,
        c.scores,
        Weight(at + names.bias, (c.count,)) if c.bias else None,
        c.groups,
        c.groups_kept,
        c.group_top,
        c.normalised,
        c.scale,
    )
    return Mixture(
        Experts(router, tuple(one.gate_up for one in each), tuple(one.down for one in each)),
        mlp(at + names.shared, hidden, c.shared, fine=fine) if c.shared else None,
        Linear.of(at + names.shared_gate, sizes=(1,), inputs=hidden, fine=(fine,)) if c.shared_gate else None,
    )


def parts(names: Names, name: str, shape: tuple[int, ...]) -> Mapping[str, int]:
    """Experts in one tensor [experts, rows, inputs] of a layer: each one's matrix, or gate and up in turn."""
    at, found, kind = name.partition(names.expert)
    kind = kind.removesuffix(".weight")
    if not found or len(shape) != 3:
        return {}
    if kind == "gate_up_proj":
        each = [(names.gate, shape[1] // 2), (names.up, shape[1] - shape[1] // 2)]
    else:
        each = [(kind, shape[1])]
    return {f"{at}{names.expert}{n}.{part}.weight": rows for n in range(shape[0]) for part, rows in each}


def run(ops: Ops, x: Any, part: Mlp | Mixture) -> Any:
    """What it makes of x [T, H]."""
    if isinstance(part, Mlp):
        return ops.linear(ops.swiglu(ops.linear(x, part.gate_up)), part.down)
    y = ops.experts(x, part.experts)
    if part.shared is None:
        return y
    shared = run(ops, x, part.shared)
    if part.shared_gate is not None:
        shared = ops.gate(shared, ops.linear(x, part.shared_gate))
    return y + shared

"""The decoder of Qwen's hybrids: most layers carry a state by the gated delta rule (arXiv:2412.06464), the
others, every fourth as published, attend.

A layer's mixer is followed by an MLP or by experts. Norms of the residual stream, and of q and k, multiply by
one more than their weight. Attention rotates a part of each head and gates its output.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from sampan.kernels.ops import (
    HIDDEN,
    Attention,
    Batch,
    Convolution,
    DeltaRule,
    Linear,
    Norm,
    Ops,
    Rope,
    Weight,
)  # fmt: skip
from sampan.models.hybrid_config import HybridConfig
from sampan.models.mixture import QWEN, Mixture, Mlp, mixture, mlp, run
from sampan.models.mixture import parts as experts_parts
from sampan.models.predictor import Draft, Predictor, begun, behind_the_last, ended

# What the layer for drafts calls its own tensors below `mtp.`, and DeepSeek behind its last layer.
_MTP = {
    "fc": "eh_proj",
    "pre_fc_norm_embedding": "enorm",
    "pre_fc_norm_hidden": "hnorm",
    "norm": "shared_head.norm",
}


@dataclass(frozen=True)
class Delta:
    """`inputs` gives q, k and v as one, z, and then b and a, as one value or two."""

    inputs: Linear
    convolution: Convolution
    rule: DeltaRule
    norm: Norm
    out: Linear


@dataclass(frozen=True)
class Attend:
    """`inputs` gives q, the output's gate, k and v."""

    inputs: Linear
    q_norm: Norm
    k_norm: Norm
    attention: Attention
    out: Linear


@dataclass(frozen=True)
class Layer:
    """One decoder layer."""

    norm: Norm
    mixer: Delta | Attend
    mlp_norm: Norm
    mlp: Mlp | Mixture


Inputs = Callable[[HybridConfig, str, bool], Linear]
"""Of a configuration, the beginning of its names and whether they are fine: `Delta.inputs` of a layer."""


@dataclass(frozen=True)
class Model:
    """Embedding, layers, final norm and head; the rotation of q and k."""

    embed: Weight
    layers: tuple[Layer, ...]
    norm: Norm
    head: Linear
    rope: Rope


@dataclass(frozen=True)
class Guesser(Predictor[Layer]):
    """The layer for drafts, and its rotation of q and k."""

    rope: Rope


def build(c: HybridConfig, inputs: Inputs) -> Model:
    """The weights by their Hugging Face names; `q_proj` head by head."""
    embed, head = _ends(c)
    return Model(
        embed,
        tuple(_layer(c, index, inputs) for index in range(c.layers)),
        shifted("model.norm", c.hidden, c.norm_eps),
        head,
        _rope(c),
    )


def build_draft(c: HybridConfig) -> Guesser:
    """The layer for drafts, which attends and has an MLP or experts as the first one."""
    at = f"model.layers.{c.layers}."
    embed_norm, state_norm, norm = (
        shifted(at + name, c.hidden, c.norm_eps) for name in ("enorm", "hnorm", "shared_head.norm")
    )
    mix = Linear.of(at + "eh_proj", sizes=(c.hidden,), inputs=2 * c.hidden)
    embed, head = _ends(c)
    layer = _whole(c, c.layers, _attend(c, c.layers, fine=True), mixed=0 not in c.dense, fine=True)
    return Guesser(embed, embed_norm, state_norm, mix, layer, norm, head, _rope(c))


def _ends(c: HybridConfig) -> tuple[Weight, Linear]:
    """Embedding and head."""
    embed = Weight("model.embed_tokens.weight", (c.vocab, c.hidden))
    name = embed.name if c.tied_head else "lm_head.weight"
    return embed, Linear((Weight(name, (c.vocab, c.hidden), fine=True),))


def _rope(c: HybridConfig) -> Rope:
    return Rope(c.rope.inv_freq, c.head_dim, c.rope.scale)


def shifted(name: str, size: int, eps: float) -> Norm:
    """A norm whose weight in the file is one less than what it multiplies by."""
    return Norm(Weight(f"{name}.weight", (size,), offset=1.0), eps)


def _layer(c: HybridConfig, index: int, inputs: Inputs) -> Layer:
    last = index == c.layers - 1
    mixer = _attend(c, index, last) if index in c.attends else _delta(c, index, inputs, last)
    return _whole(c, index, mixer, mixed=index not in c.dense, fine=last)


def _whole(c: HybridConfig, index: int, mixer: Delta | Attend, *, mixed: bool, fine: bool) -> Layer:
    """A layer around its mixer; `mixed`: with experts, where the model has some."""
    at = f"model.layers.{index}."
    return Layer(
        shifted(at + "input_layernorm", c.hidden, c.norm_eps),
        mixer,
        shifted(at + "post_attention_layernorm", c.hidden, c.norm_eps),
        mixture(at, c.hidden, c.experts, fine=fine)
        if mixed and c.experts
        else mlp(at + "mlp.", c.hidden, c.ffn, fine=fine),
    )


def _delta(c: HybridConfig, index: int, inputs: Inputs, fine: bool) -> Delta:
    at = f"model.layers.{index}.linear_attn."
    values = c.delta_heads * c.value_size
    rule = DeltaRule(
        index,
        c.delta_heads,
        c.key_heads,
        c.key_size,
        c.value_size,
        Weight(at + "A_log", (c.delta_heads,)),
        Weight(at + "dt_bias", (c.delta_heads,)),
    )
    return Delta(
        inputs(c, at, fine),
        Convolution(index, Weight(at + "conv1d.weight", (rule.width, c.taps))),
        rule,
        Norm(Weight(at + "norm.weight", (c.value_size,)), c.norm_eps),
        Linear.of(at + "out_proj", sizes=(c.hidden,), inputs=values, fine=(fine,)),
    )


def _attend(c: HybridConfig, index: int, fine: bool) -> Attend:
    at = f"model.layers.{index}.self_attn."
    heads = [Weight(f"{at}q_proj.{x}.{head}.weight", (c.head_dim, c.hidden), fine) for x, head in _queries(c)]
    both = [Weight(f"{at}{x}_proj.weight", (c.kv_heads * c.head_dim, c.hidden), fine) for x in "kv"]
    return Attend(
        Linear((*heads, *both), joined=(c.heads, c.heads, 1, 1)),
        shifted(at + "q_norm", c.head_dim, c.norm_eps),
        shifted(at + "k_norm", c.head_dim, c.norm_eps),
        Attention(index, c.heads, c.kv_heads, c.head_dim, c.head_dim, c.head_dim**-0.5),
        Linear.of(at + "o_proj", sizes=(c.hidden,), inputs=c.heads * c.head_dim, fine=(fine,)),
    )


def _queries(c: HybridConfig) -> list[tuple[str, int]]:
    """Of `q_proj`: all queries, then all gates."""
    return [(x, head) for x in ("q", "gate") for head in range(c.heads)]


def forward(ops: Ops, model: Model, batch: Batch) -> Any:
    """Logits of the sampled rows."""
    x = ops.embed(model.embed, batch.ids)
    for layer in model.layers:
        x = _through(ops, x, layer, model.rope, batch, last=layer is model.layers[-1])
    return ops.head(ops.keep(ops.norm(x, model.norm), HIDDEN), model.head)


def draft(ops: Ops, model: Guesser, batch: Batch) -> Any:
    """Logits of the token after the next one."""
    x = _through(ops, begun(ops, model, batch), model.layer, model.rope, batch, last=True)
    return ended(ops, model, x)


def _through(ops: Ops, x: Any, layer: Layer, rotation: Rope, batch: Batch, *, last: bool) -> Any:
    """What a layer makes of x [T, H]; of the `last` one nothing but the sampled rows is read."""
    h = ops.norm(x, layer.norm)
    if isinstance(layer.mixer, Delta):
        y = _recurrent(ops, h, layer.mixer, batch)
    else:
        y = _attended(ops, h, layer.mixer, rotation, batch)
    if last:
        x, y = ops.rows(x, batch.sampled), ops.rows(y, batch.sampled)
    x = x + ops.linear(y, layer.mixer.out)
    return x + run(ops, ops.norm(x, layer.mlp_norm), layer.mlp)


def _recurrent(ops: Ops, h: Any, mixer: Delta, batch: Batch) -> Any:
    qkv, z, *gates = ops.linear(h, mixer.inputs)
    b, a = gates if len(gates) == 2 else _apart(ops, gates[0], mixer.rule)
    y = ops.delta(ops.convolve(qkv, batch.cache, mixer.convolution), b, a, batch.cache, mixer.rule)
    return ops.swiglu((z, ops.norm(y, mixer.norm)))


def _apart(ops: Ops, gates: Any, rule: DeltaRule) -> tuple[Any, Any]:
    """b and a of all heads, where those of a key head lie together."""
    runs = ops.split(gates, [rule.heads // rule.key_heads] * 2 * rule.key_heads)
    return ops.concat(runs[::2]), ops.concat(runs[1::2])


def _attended(ops: Ops, h: Any, mixer: Attend, rotation: Rope, batch: Batch) -> Any:
    q, gate, k, v = ops.linear(h, mixer.inputs)
    q = ops.rope(ops.norm(q, mixer.q_norm), batch.positions, rotation)
    k = ops.rope(ops.norm(k, mixer.k_norm), batch.positions, rotation)
    return ops.gate(ops.attend(q, k, v, batch.cache, mixer.attention), gate)


DRAFT = Draft(build=build_draft, forward=draft, owns=behind_the_last)


def parts(c: HybridConfig, name: str, shape: tuple[int, ...]) -> Mapping[str, int]:
    """See `Family.parts`: q and gate of a head lie one behind the other; the convolution is a matrix; the
    layer for drafts is called otherwise."""
    own = _of_draft(c, name)
    if own.endswith("self_attn.q_proj.weight"):
        at = own.removesuffix("weight")
        return {f"{at}{x}.{head}.weight": c.head_dim for head in range(c.heads) for x in ("q", "gate")}
    if own.endswith("conv1d.weight"):
        return {own: shape[0]}
    return experts_parts(QWEN, own, shape) or ({own: prod(shape[:-1] or shape)} if own != name else {})


def _of_draft(c: HybridConfig, name: str) -> str:
    """The name behind the last layer of a tensor that is called `mtp.…`, or `model.mtp.…`."""
    match name.removeprefix("model.").split(".", 3):
        case ["mtp", "layers", number, rest] if number.isdecimal():
            return f"model.layers.{c.layers + int(number)}.{rest}"
        case ["mtp", part, kind] if part in _MTP:
            return f"model.layers.{c.layers}.{_MTP[part]}.{kind}"
    return name

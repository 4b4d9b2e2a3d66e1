"""The decoder of Qwen's hybrids: most layers carry a state by the gated delta rule (arXiv:2412.06464), the
others, every fourth as published, attend.

A layer's mixer is followed by an MLP or by experts. Norms of the residual stream, and of q and k, multiply by
one more than their weight. Attention rotates a part of each head and gates its output.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sampan.core.errors import UnsupportedModel
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
from sampan.models import rope
from sampan.models.config import MAX, ModelConfig, RopeConfig, refuse_hf_variants
from sampan.models.fields import Fields
from sampan.models.mixture import QWEN, ExpertConfig, Mixture, Mlp, mixture, mlp, run
from sampan.models.mixture import parts as experts_parts

_PART = 0.25  # of a head's features that are rotated, where config.json does not say
_MOST_TAPS = 16
_DELTA = {"key_heads": "num_key_heads", "delta_heads": "num_value_heads"}
_DELTA_SIZES = {"key_size": "key_head_dim", "value_size": "value_head_dim"}


@dataclass(frozen=True, kw_only=True)
class HybridConfig(ModelConfig):
    """`attends`: layers with attention. `key_heads`, `delta_heads`, `key_size`, `value_size`, `taps`: of the
    others' delta rule and convolution. `dense`: layers with an MLP of `ffn` features."""

    heads: int
    kv_heads: int
    head_dim: int
    rope: RopeConfig
    attends: frozenset[int]
    key_heads: int
    delta_heads: int
    key_size: int
    value_size: int
    taps: int
    norm_eps: float
    ffn: int
    dense: frozenset[int]
    experts: ExpertConfig | None = None


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


def hybrid_from_hf(
    fields: Fields,
    family: str,
    *,
    ffn: int,
    dense: frozenset[int],
    experts: ExpertConfig | None,
    tied: bool = False,
) -> HybridConfig:
    """What the families share. `tied`: the head, where these fields do not say."""
    kinds = fields.values.get("layer_types")
    refuse_hf_variants(Fields({**fields.values, "layer_types": None}, fields.source))
    if fields.flag("attention_bias", False):
        raise UnsupportedModel(f"{fields.source}: attention_bias is not supported")
    layers = fields.integer("num_hidden_layers", high=MAX["layers"])
    heads = fields.integer("num_attention_heads", high=MAX["heads"])
    kv_heads = fields.integer("num_key_value_heads", heads, high=heads)
    head_dim = fields.integer("head_dim", 256, high=1024)
    delta = {ours: fields.integer(f"linear_{name}", high=MAX["heads"]) for ours, name in _DELTA.items()}
    for whole, part, name in (
        (heads, kv_heads, "num_key_value_heads"),
        (delta["delta_heads"], delta["key_heads"], "linear_num_key_heads"),
    ):
        if whole % part:
            raise fields.fail(name, f"is {part}, which does not divide the {whole} heads")
    context = fields.integer("max_position_embeddings", high=MAX["context"])
    rotation = rope.from_hf(fields, head_dim, context, _PART)
    return HybridConfig(
        family=family,
        hidden=fields.integer("hidden_size", high=MAX["hidden"]),
        layers=layers,
        vocab=fields.integer("vocab_size", high=MAX["vocab"]),
        context=rotation.context,
        tied_head=fields.flag("tie_word_embeddings", tied),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rope=RopeConfig(tuple(float(value) for value in rotation.inv_freq), rotation.scale),
        attends=_attends(fields, kinds, layers),
        taps=fields.integer("linear_conv_kernel_dim", low=2, high=_MOST_TAPS),
        norm_eps=fields.number("rms_norm_eps", 1e-6, high=1.0),
        ffn=ffn,
        dense=dense,
        experts=experts,
        **delta,
        **{ours: fields.integer(f"linear_{name}", high=1024) for ours, name in _DELTA_SIZES.items()},
    )


def _attends(fields: Fields, kinds: object, layers: int) -> frozenset[int]:
    """Layers with attention: as they are listed, or every `full_attention_interval`th."""
    if kinds is None:
        step = fields.integer("full_attention_interval", 4, high=MAX["layers"])
        return frozenset(layer for layer in range(layers) if (layer + 1) % step == 0)
    if not isinstance(kinds, list) or len(kinds) < layers:
        raise fields.fail("layer_types", f"should list the kinds of {layers} layers")
    odd = next((kind for kind in kinds if kind not in ("full_attention", "linear_attention")), None)
    if odd is not None:
        raise UnsupportedModel(f"{fields.source}: layer_types {str(odd)[:40]!r} is not supported")
    return frozenset(layer for layer in range(layers) if kinds[layer] == "full_attention")


def build(c: HybridConfig, inputs: Inputs) -> Model:
    """The weights by their Hugging Face names; `q_proj` head by head."""
    embed = Weight("model.embed_tokens.weight", (c.vocab, c.hidden))
    name = embed.name if c.tied_head else "lm_head.weight"
    return Model(
        embed,
        tuple(_layer(c, index, inputs) for index in range(c.layers)),
        shifted("model.norm", c.hidden, c.norm_eps),
        Linear((Weight(name, (c.vocab, c.hidden), fine=True),)),
        Rope(c.rope.inv_freq, c.head_dim, c.rope.scale),
    )


def shifted(name: str, size: int, eps: float) -> Norm:
    """A norm whose weight in the file is one less than what it multiplies by."""
    return Norm(Weight(f"{name}.weight", (size,), offset=1.0), eps)


def _layer(c: HybridConfig, index: int, inputs: Inputs) -> Layer:
    at, last = f"model.layers.{index}.", index == c.layers - 1
    mixed = None if index in c.dense else c.experts
    return Layer(
        shifted(at + "input_layernorm", c.hidden, c.norm_eps),
        _attend(c, index, last) if index in c.attends else _delta(c, index, inputs, last),
        shifted(at + "post_attention_layernorm", c.hidden, c.norm_eps),
        mlp(at + "mlp.", c.hidden, c.ffn, fine=last)
        if mixed is None
        else mixture(at, c.hidden, mixed, fine=last),
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
        h = ops.norm(x, layer.norm)
        if isinstance(layer.mixer, Delta):
            y = _recurrent(ops, h, layer.mixer, batch)
        else:
            y = _attended(ops, h, layer.mixer, model.rope, batch)
        if layer is model.layers[-1]:  # nothing reads the other rows any more
            x, y = ops.rows(x, batch.sampled), ops.rows(y, batch.sampled)
        x = x + ops.linear(y, layer.mixer.out)
        x = x + run(ops, ops.norm(x, layer.mlp_norm), layer.mlp)
    return ops.head(ops.keep(ops.norm(x, model.norm), HIDDEN), model.head)


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


def parts(c: HybridConfig, name: str, shape: tuple[int, ...]) -> Mapping[str, int]:
    """See `Family.parts`: q and gate of a head lie one behind the other; the convolution is a matrix."""
    if name.endswith("self_attn.q_proj.weight"):
        at = name.removesuffix("weight")
        return {f"{at}{x}.{head}.weight": c.head_dim for head in range(c.heads) for x in ("q", "gate")}
    if name.endswith("conv1d.weight"):
        return {name: shape[0]}
    return experts_parts(QWEN, name, shape)

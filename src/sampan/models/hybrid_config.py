"""The configuration of Qwen's hybrids (`hybrid.py`)."""

from dataclasses import dataclass

from sampan.core.errors import UnsupportedModel
from sampan.models import rope
from sampan.models.config import MAX, ModelConfig, RopeConfig, refuse_hf_variants
from sampan.models.fields import Fields
from sampan.models.mixture import ExpertConfig

_PART = 0.25  # of a head's features that are rotated, where config.json does not say
MOST_TAPS = 16
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
        taps=fields.integer("linear_conv_kernel_dim", low=2, high=MOST_TAPS),
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

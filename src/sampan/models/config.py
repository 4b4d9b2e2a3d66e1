"""What everybody outside a family's file knows of a model, and the sizes that most decoders share.

A field that is missing, of another type, out of bounds or at odds with another is a `WeightsError` naming
file and field; an architecture, or a variant of one, that is not implemented is an `UnsupportedModel`. The
bounds are several times the largest published model and keep a hostile file from asking for absurd memory.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import UnsupportedModel
from sampan.kernels.ops import Rope
from sampan.models import rope
from sampan.models.fields import Fields

_MAX_HEAD_DIM = 1024
MAX = {"hidden": 2**17, "layers": 2**11, "heads": 2**11, "ffn": 2**20, "vocab": 2**22, "context": 2**24}
_HF_NAMES = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "vocab": "vocab_size",
    "context": "max_position_embeddings",
}
_GGUF_NAMES = {
    "hidden": "embedding_length",
    "layers": "block_count",
    "heads": "attention.head_count",
    "ffn": "feed_forward_length",
    "context": "context_length",
}
# GGUF keys that change the arithmetic of a family when they are there and not zero.
_GGUF_VARIANTS = (
    "expert_count",
    "attention.sliding_window",
    "attention.scale",
    "attention.temperature_scale",
    "logit_scale",
    "embedding_scale",
    "residual_scale",
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a family's own configuration begins with. `family`: its name. Units are elements; `context` is in
    tokens. With a smaller `layers` in its place it is the model of the first layers and the head."""

    family: str
    hidden: int
    layers: int
    vocab: int
    context: int
    tied_head: bool


@dataclass(frozen=True)
class RopeConfig:
    """Frequencies of a rotary embedding. `inv_freq`: one for each rotated pair of a head, in radians per
    position; `scale` multiplies cos and sin (YaRN's attention factor)."""

    inv_freq: tuple[float, ...]
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DenseConfig(ModelConfig):
    """Sizes and constants of a dense decoder whose heads all have one size."""

    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    norm_eps: float
    rope: RopeConfig
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False

    @property
    def rotation(self) -> Rope:
        """The rotation of q and k, half-split."""
        return Rope(self.rope.inv_freq, self.head_dim, self.rope.scale)


@dataclass(frozen=True)
class GgufModel:
    """What a GGUF file says of its model: its metadata, its tensors' row-major shapes by GGUF name, and the
    values of its tensor `rope_freqs.weight` if it has one."""

    metadata: Mapping[str, object]
    shapes: Mapping[str, tuple[int, ...]]
    rope_factors: NDArray[np.float32] | None = field(default=None, compare=False)
    source: str = "GGUF metadata"

    @property
    def architecture(self) -> str:
        """The name that stands before its keys."""
        return Fields(self.metadata, self.source).text("general.architecture")

    def fields(self, section: str = "") -> Fields:
        """The architecture's keys, or those of a section such as `rope.`."""
        return Fields(self.metadata, self.source, f"{self.architecture}.{section}")


def dense_from_hf(
    fields: Fields,
    family: str,
    *,
    qkv_bias: bool = False,
    out_bias: bool = False,
    mlp_bias: bool = False,
    head_dim: int | None = None,
) -> DenseConfig:
    """Of a `config.json`, read as transformers' class of its type reads it. `head_dim`: where it says
    none."""
    refuse_hf_variants(fields)
    sizes = {size: fields.integer(name, high=MAX[size]) for size, name in _HF_NAMES.items()}
    heads = _heads(fields, sizes, "num_key_value_heads", "head_dim", default=head_dim)
    rotation = rope.from_hf(fields, heads["head_dim"], sizes["context"])
    return DenseConfig(
        family=family,
        norm_eps=fields.number("rms_norm_eps", high=1.0),
        rope=_rope(rotation),
        tied_head=fields.flag("tie_word_embeddings", False),
        qkv_bias=qkv_bias,
        out_bias=out_bias,
        mlp_bias=mlp_bias,
        **(sizes | heads | {"context": rotation.context}),
    )


def dense_from_gguf(
    model: GgufModel, family: str, *, qkv_bias: bool = False, experts: bool = False
) -> DenseConfig:
    """Of a GGUF file. Biases and an untied head exist where their tensors do. `experts`: the family has
    some."""
    fields, shapes = model.fields(), model.shapes
    refuse_gguf_variants(fields, ("expert_count",) if experts else ())
    sizes = {size: fields.integer(name, high=MAX[size]) for size, name in _GGUF_NAMES.items()}
    sizes["vocab"] = gguf_vocab(model)
    heads = _heads(fields, sizes, "attention.head_count_kv", "attention.key_length")
    _check_value_length(fields, heads["head_dim"])
    rotation = rope.from_gguf(model.fields("rope."), heads["head_dim"], sizes["context"], model.rope_factors)
    return DenseConfig(
        family=family,
        norm_eps=fields.number("attention.layer_norm_rms_epsilon", high=1.0),
        rope=_rope(rotation),
        tied_head="output.weight" not in shapes,
        qkv_bias=qkv_bias or "blk.0.attn_q.bias" in shapes,
        out_bias="blk.0.attn_output.bias" in shapes,
        mlp_bias="blk.0.ffn_down.bias" in shapes,
        **(sizes | heads | {"context": rotation.context}),
    )


def gguf_vocab(model: GgufModel) -> int:
    """The rows of a GGUF file's embedding, which count as in llama.cpp where `vocab_size` says another
    number."""
    fields, shape = model.fields(), model.shapes.get("token_embd.weight")
    if shape is None:
        return fields.integer("vocab_size", high=MAX["vocab"])
    rows = Fields({"rows": shape[0]}, model.source).integer("rows", high=MAX["vocab"])
    said = fields.integer("vocab_size", rows, low=0, high=2**63)
    if said != rows:
        warnings.warn(
            f"{model.source}: passed over {fields.prefix}vocab_size {said}: its embedding has {rows} rows",
            stacklevel=2,
        )
    return rows


def dense_to_hf(c: DenseConfig, metadata: Mapping[str, object]) -> dict[str, object]:
    """The `config.json` of a GGUF file's model."""
    architecture = metadata.get("general.architecture", c.family)
    given: dict[str, object] = {
        "architectures": [class_of(c.family)],
        "model_type": c.family,
        "hidden_size": c.hidden,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "intermediate_size": c.ffn,
        "vocab_size": c.vocab,
        "max_position_embeddings": c.context,
        "hidden_act": "silu",
        "rms_norm_eps": c.norm_eps,
        "rope_theta": metadata.get(f"{architecture}.rope.freq_base", 10000.0),
        "tie_word_embeddings": c.tied_head,
        "attention_bias": c.out_bias,
        "mlp_bias": c.mlp_bias,
    }
    if _rope(rope.from_hf(Fields(given, "config.json"), c.head_dim, c.context)) != c.rope:
        given["rope_scaling"] = rope.listed(c.rope.inv_freq, c.rope.scale)
    return given


def class_of(model_type: str) -> str:
    """What transformers calls the model."""
    return f"{''.join(part.capitalize() for part in model_type.split('_'))}ForCausalLM"


def refuse_hf_variants(fields: Fields) -> None:
    """Refuse by name what changes the arithmetic of every family."""
    if fields.text("hidden_act", "silu") != "silu":
        raise UnsupportedModel(
            f"{fields.source}: hidden_act {fields.text('hidden_act')[:40]!r} is not supported: silu is"
        )
    layer_types = fields.values.get("layer_types") or []
    sliding = not isinstance(layer_types, list) or any(kind != "full_attention" for kind in layer_types)
    if fields.flag("use_sliding_window", False) or sliding:
        raise UnsupportedModel(f"{fields.source}: sliding-window attention is not supported")


def refuse_gguf_variants(fields: Fields, known: tuple[str, ...]) -> None:
    """The same of a GGUF file; `known`: keys that the family obeys."""
    for name in _GGUF_VARIANTS:
        if name not in known and name in fields and fields.number(name, low=-1e9) != 0:
            raise UnsupportedModel(f"{fields.source}: {fields.prefix}{name} is not supported")


def _heads(
    fields: Fields, sizes: Mapping[str, int], kv_name: str, dim_name: str, default: int | None = None
) -> dict[str, int]:
    """`kv_heads` and `head_dim`, checked against the number of heads and the hidden size."""
    heads, hidden = sizes["heads"], sizes["hidden"]
    kv_heads = fields.integer(kv_name, heads, high=MAX["heads"])
    if heads % kv_heads:
        raise fields.fail(kv_name, f"is {kv_heads}, which does not divide the {heads} attention heads")
    if dim_name not in fields and default is None and hidden % heads:
        raise fields.fail(dim_name, f"is missing, and {heads} heads do not divide the hidden size {hidden}")
    head_dim = fields.integer(dim_name, default or max(hidden // heads, 1), high=_MAX_HEAD_DIM)
    if head_dim % 2:
        raise fields.fail(dim_name, f"is {head_dim}: rotary embedding needs an even number")
    return {"kv_heads": kv_heads, "head_dim": head_dim}


def _check_value_length(fields: Fields, head_dim: int) -> None:
    if fields.integer("attention.value_length", head_dim, high=2**16) != head_dim:
        raise UnsupportedModel(
            f"{fields.source}: {fields.prefix}attention.value_length differs from the key's {head_dim}"
        )


def _rope(rotation: rope.Rotation) -> RopeConfig:
    return RopeConfig(tuple(float(value) for value in rotation.inv_freq), rotation.scale)

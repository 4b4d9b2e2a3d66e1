"""Qwen's hybrids in GGUF (`qwen3next`, `qwen35`, `qwen35moe`), as llama.cpp's conversion/qwen.py writes them.

Norms have the one added, and decays are rates, -exp(A_log). Qwen3-Next's inputs of the delta rule come apart
as Qwen3.5's, key heads of older files together as published. Qwen3.5's value heads go through the key heads
in turn: head v of key head k is the file's v * key_heads + k.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import UnsupportedModel
from sampan.kernels.tensors import Floats
from sampan.models import rope
from sampan.models.config import MAX, GgufModel, RopeConfig, gguf_vocab, refuse_gguf_variants
from sampan.models.family import DRAFT_LAYER, Stored
from sampan.models.fields import Fields
from sampan.models.hybrid_config import MOST_TAPS, HybridConfig
from sampan.models.mixture import ExpertConfig, experts_of
from sampan.models.sparse import LAYER as SPARSE_LAYER

LAYER = {
    **SPARSE_LAYER,
    **DRAFT_LAYER,
    "post_attention_norm": "post_attention_layernorm",
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_in": "linear_attn.in_proj_qkvz",
    "ssm_ba": "linear_attn.in_proj_ba",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_dt.bias": "linear_attn.dt_bias",
    "ssm_a.": "linear_attn.A_log",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
    "ffn_gate_up_exps": "mlp.experts.gate_up_proj",
}
_KEYS = ("in_proj_qkv.weight", "conv1d.weight")  # tensors whose value heads are behind the key heads
_WIDE = (*_KEYS, "in_proj_z.weight", "out_proj.weight")
_TURNS = (*_WIDE, "in_proj_a.weight", "in_proj_b.weight", "A_log", "dt_bias")


def hybrid_from_gguf(model: GgufModel, family: str, *, dense: bool = True) -> HybridConfig:
    """What the families share. `dense`: a mixture may have layers with an MLP."""
    fields, attention = model.fields(), model.fields("attention.")
    refuse_gguf_variants(fields, ("expert_count",))
    drafts = fields.integer("nextn_predict_layers", 0, low=0, high=64)
    layers = fields.integer("block_count", low=drafts + 1, high=MAX["layers"]) - drafts
    heads = attention.integer("head_count", high=MAX["heads"])
    head_dim = attention.integer("key_length", 256, high=1024)
    if attention.integer("value_length", head_dim, high=2**16) != head_dim:
        raise UnsupportedModel(f"{fields.source}: {attention.prefix}value_length is not the key's {head_dim}")
    context = fields.integer("context_length", high=MAX["context"])
    turning = model.fields("rope.")
    rotated = turning.integer("dimension_count", head_dim, high=head_dim)
    if rotated % 2:
        raise turning.fail("dimension_count", f"is {rotated}: it must be even")
    rotation = rope.from_gguf(turning, rotated, context, model.rope_factors)
    mixed = "expert_count" in fields and fields.integer("expert_count", low=0, high=2**12) > 0
    return HybridConfig(
        family=family,
        hidden=fields.integer("embedding_length", high=MAX["hidden"]),
        layers=layers,
        vocab=gguf_vocab(model),
        context=rotation.context,
        tied_head="output.weight" not in model.shapes,
        heads=heads,
        kv_heads=_dividing(attention, "head_count_kv", heads),
        head_dim=head_dim,
        rope=RopeConfig(tuple(float(value) for value in rotation.inv_freq), rotation.scale),
        attends=_attends(fields, layers),
        norm_eps=attention.number("layer_norm_rms_epsilon", high=1.0),
        ffn=fields.integer("feed_forward_length", 0, low=0, high=MAX["ffn"]) if dense or not mixed else 0,
        dense=_dense(model, layers) if mixed and dense else frozenset(),
        experts=_experts(fields) if mixed else None,
        **_delta(model.fields("ssm.")),
    )


def hybrid_to_hf(c: HybridConfig, model_type: str, name: str) -> dict[str, object]:
    """The `config.json` of a file's model, which transformers calls `name`."""
    part = {"partial_rotary_factor": 2 * len(c.rope.inv_freq) / c.head_dim}
    given: dict[str, object] = {
        "architectures": [name],
        "model_type": model_type,
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
        "tie_word_embeddings": c.tied_head,
        "rope_scaling": rope.listed(c.rope.inv_freq, c.rope.scale) | part,
        "layer_types": [
            "full_attention" if layer in c.attends else "linear_attention" for layer in range(c.layers)
        ],
        "linear_num_key_heads": c.key_heads,
        "linear_num_value_heads": c.delta_heads,
        "linear_key_head_dim": c.key_size,
        "linear_value_head_dim": c.value_size,
        "linear_conv_kernel_dim": c.taps,
    }
    if (experts := c.experts) is None:
        return given
    return given | {
        "num_experts": experts.count,
        "num_experts_per_tok": experts.chosen,
        "moe_intermediate_size": experts.ffn,
        "shared_expert_intermediate_size": experts.shared,
        "norm_topk_prob": experts.normalised,
        "decoder_sparse_step": 1,
        "mlp_only_layers": sorted(c.dense),
    }


def _delta(fields: Fields) -> dict[str, int]:
    heads = fields.integer("time_step_rank", high=MAX["heads"])
    inner = fields.integer("inner_size", high=MAX["hidden"])
    if inner % heads:
        raise fields.fail("inner_size", f"is {inner}, which {heads} heads do not divide")
    return {
        "delta_heads": heads,
        "key_heads": _dividing(fields, "group_count", heads),
        "key_size": fields.integer("state_size", high=1024),
        "value_size": inner // heads,
        "taps": fields.integer("conv_kernel", low=2, high=MOST_TAPS),
    }


def _dividing(fields: Fields, name: str, heads: int) -> int:
    count = fields.integer(name, heads, high=heads)
    if heads % count:
        raise fields.fail(name, f"is {count}, which does not divide the {heads} heads")
    return count


def _attends(fields: Fields, layers: int) -> frozenset[int]:
    """Layers with attention: those that are not listed as recurrent, or every `full_attention_interval`th."""
    listed = fields.values.get(f"{fields.prefix}attention.recurrent_layers")
    if isinstance(listed, Iterable):
        recurrent = list(listed)
        if len(recurrent) < layers:
            raise fields.fail("attention.recurrent_layers", f"should list {layers} layers")
        return frozenset(layer for layer in range(layers) if not recurrent[layer])
    step = fields.integer("full_attention_interval", 4, high=MAX["layers"])
    return frozenset(layer for layer in range(layers) if (layer + 1) % step == 0)


def _dense(model: GgufModel, layers: int) -> frozenset[int]:
    """Layers without a router."""
    return frozenset(n for n in range(layers) if f"blk.{n}.ffn_gate_inp.weight" not in model.shapes)


def _experts(fields: Fields) -> ExpertConfig:
    """The file does not say that weights are normalised: they are."""
    return experts_of(
        fields,
        "expert_count",
        "expert_used_count",
        "expert_feed_forward_length",
        shared=fields.integer("expert_shared_feed_forward_length", high=MAX["ffn"]),
        shared_gate=True,
    )


def stored(_c: HybridConfig, name: str) -> Stored | None:
    """See `Family.stored`."""
    if name.endswith("norm.weight"):
        return None if name.endswith("linear_attn.norm.weight") else Stored(read=_without_one)
    return Stored(read=_logarithms) if name.endswith("linear_attn.A_log") else None


def stored_in_turn(c: HybridConfig, name: str) -> Stored | None:
    """The same where value heads go through the key heads in turn."""
    if c.key_heads == c.delta_heads or not name.endswith(tuple(f"linear_attn.{n}" for n in _TURNS)):
        return stored(c, name)
    order = np.arange(c.delta_heads).reshape(-1, c.key_heads).T.reshape(-1)
    if name.endswith(_WIDE):
        order = (order[:, None] * c.value_size + np.arange(c.value_size)).reshape(-1)
    if name.endswith("out_proj.weight"):
        return Stored(columns=order)
    if name.endswith(_KEYS):
        keys = 2 * c.key_heads * c.key_size
        order = np.concatenate([np.arange(keys), keys + order])
    return Stored(_indices(order), read=_logarithms if name.endswith("A_log") else None)


def _indices(order: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.ascontiguousarray(order, np.intp)


def _without_one(values: Floats) -> Floats:
    return values - np.float32(1)


def _logarithms(values: Floats) -> Floats:
    """Of rates below zero; others give no number, and so a damaged file."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.log(-values)
        return found

"""DeepSeek's configurations in GGUF (`deepseek2`), as convert_hf_to_gguf.py writes them.

Older files have `attn_kv_b`, and a head's sizes as key and value length; later ones have `attn_k_b`, whose
matrices lie [inputs, outputs], and `attn_v_b`, and tell those sizes in `…_mla`. Rotated pairs are
neighbours in both. A file does not say `topk_method`: experts go by its `expert_gating_func`.
"""

import math
from collections.abc import Mapping
from typing import Any

from sampan.core.errors import UnsupportedModel
from sampan.models import rope
from sampan.models.config import MAX, GgufModel, RopeConfig, class_of, gguf_vocab, refuse_gguf_variants
from sampan.models.family import DRAFT_LAYER
from sampan.models.family import LAYER as DENSE_LAYER
from sampan.models.fields import Fields
from sampan.models.latent import LatentConfig
from sampan.models.mixture import ExpertConfig, experts_of

_MAX_RANK = 2**14
_GATINGS = {0: "softmax", 1: "softmax", 2: "sigmoid"}  # none: files of before the key
LAYER = {
    **DENSE_LAYER,
    **DRAFT_LAYER,
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "attn_k_b": "self_attn.k_b_proj",
    "attn_v_b": "self_attn.v_b_proj",
    "ffn_gate_inp": "mlp.gate",
    "exp_probs_b.bias": "mlp.gate.e_score_correction_bias",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}
TURNED = ("k_b_proj.weight",)


def gating(model: GgufModel) -> str:
    """How the router's scores are made."""
    fields = model.fields()
    number = fields.integer("expert_gating_func", 0, low=0, high=255)
    if number not in _GATINGS:
        raise UnsupportedModel(
            f"{fields.source}: {fields.prefix}expert_gating_func {number} is not supported: "
            "1 (softmax) and 2 (sigmoid) are"
        )
    return _GATINGS[number]


def experts_from_gguf(model: GgufModel, **rest: Any) -> ExpertConfig:
    """The experts of a file; `rest`: what the family adds."""
    fields = model.fields()
    groups = fields.integer("expert_group_count", 1, high=MAX["heads"])
    ffn = "expert_feed_forward_length"
    shared = fields.integer("expert_shared_count", 0, low=0, high=64)
    return experts_of(
        fields,
        "expert_count",
        "expert_used_count",
        ffn,
        shared=shared * fields.integer(ffn, high=MAX["ffn"]),
        groups=groups,
        groups_kept=fields.integer("expert_group_used_count", 1, high=groups) if groups > 1 else 1,
        normalised=fields.flag("expert_weights_norm", False),
        scale=fields.number("expert_weights_scale", 1.0, low=0, high=1e4) or 1.0,
        **rest,
    )


def latent_from_gguf(model: GgufModel, family: str, experts: ExpertConfig) -> LatentConfig:
    """The rest of the configuration."""
    fields = model.fields()
    refuse_gguf_variants(fields, ("expert_count",))
    latent = fields.integer("attention.kv_lora_rank", high=_MAX_RANK)
    head, value = _head(model, latent)
    rotated = fields.integer("rope.dimension_count", high=MAX["heads"])
    if rotated >= head or rotated % 2:
        raise fields.fail(
            "rope.dimension_count", f"is {rotated}: it must be even and below the head's {head}"
        )
    context = fields.integer("context_length", high=MAX["context"])
    rotation, factor = _rotation(model, rotated, context)
    drafts = fields.integer("nextn_predict_layers", 0, low=0, high=64)
    layers = fields.integer("block_count", low=drafts + 1, high=MAX["layers"]) - drafts
    return LatentConfig(
        family=family,
        hidden=fields.integer("embedding_length", high=MAX["hidden"]),
        layers=layers,
        vocab=gguf_vocab(model),
        context=rotation.context,
        tied_head="output.weight" not in model.shapes,
        heads=fields.integer("attention.head_count", high=MAX["heads"]),
        query=fields.integer("attention.q_lora_rank", 0, low=0, high=_MAX_RANK),
        latent=latent,
        plain=head - rotated,
        rotated=rotated,
        value=value,
        scale=head**-0.5 * factor**2,
        ffn=fields.integer("feed_forward_length", high=MAX["ffn"]),
        dense=fields.integer("leading_dense_block_count", 0, low=0, high=layers),
        experts=experts,
        norm_eps=fields.number("attention.layer_norm_rms_epsilon", high=1.0),
        rope=RopeConfig(tuple(float(value) for value in rotation.inv_freq), rotation.scale),
    )


def latent_to_hf(c: LatentConfig, _metadata: Mapping[str, object]) -> dict[str, object]:
    """The `config.json` of a file's model."""
    experts = c.experts
    return {
        "architectures": [class_of(c.family)],
        "model_type": c.family,
        "hidden_size": c.hidden,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.heads,
        "intermediate_size": c.ffn,
        "first_k_dense_replace": c.dense,
        "vocab_size": c.vocab,
        "max_position_embeddings": c.context,
        "q_lora_rank": c.query or None,
        "kv_lora_rank": c.latent,
        "qk_nope_head_dim": c.plain,
        "qk_rope_head_dim": c.rotated,
        "v_head_dim": c.value,
        "hidden_act": "silu",
        "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tied_head,
        "rope_scaling": rope.listed(c.rope.inv_freq, c.rope.scale) | {"score_scale": c.scale},
        "n_routed_experts": experts.count,
        "num_experts_per_tok": experts.chosen,
        "moe_intermediate_size": experts.ffn,
        "n_shared_experts": experts.shared // experts.ffn,
        "n_group": experts.groups,
        "topk_group": experts.groups_kept,
        "norm_topk_prob": experts.normalised,
        "routed_scaling_factor": experts.scale,
        "scoring_func": experts.scores,
    }


def _head(model: GgufModel, latent: int) -> tuple[int, int]:
    """Features of a head's key and value. In a file of the later kind the plain lengths are the cache's."""
    fields = model.fields("attention.")
    later = "key_length_mla" in fields
    if later and fields.integer("value_length", latent, high=_MAX_RANK) != latent:
        raise fields.fail("value_length", f"is not the {latent} of kv_lora_rank")
    ending = "_mla" if later else ""
    key, value = (fields.integer(f"{kind}_length{ending}", high=MAX["heads"]) for kind in ("key", "value"))
    return key, value


def _rotation(model: GgufModel, rotated: int, context: int) -> tuple[rope.Rotation, float]:
    """The rotation, and YaRN's factor of queries and keys that DeepSeek takes into the scores. The file keeps
    a tenth of `mscale_all_dim`, and leaves `mscale` out: it is the same number."""
    fields = model.fields("rope.")
    if fields.number("scaling.attn_factor", 1.0) != 1:
        raise UnsupportedModel(f"{fields.source}: {fields.prefix}scaling.attn_factor is not supported")
    multiplier = fields.number("scaling.yarn_log_multiplier", 0.0, low=0)
    rotation = rope.from_gguf(fields, rotated, context, model.rope_factors, mscale=multiplier)
    return rotation, _mscale(fields, multiplier)


def _mscale(fields: Fields, multiplier: float) -> float:
    stretch = fields.number("scaling.factor", 1.0, low=0)
    if fields.text("scaling.type", "linear") != "yarn" or stretch <= 1:
        return 1.0
    return multiplier * math.log(stretch) + 1.0

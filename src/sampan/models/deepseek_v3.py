"""DeepSeek-V3 (arXiv:2412.19437) and DeepSeek-R1 (arXiv:2501.12948)."""

import math

from sampan.core.errors import UnsupportedModel
from sampan.models import rope
from sampan.models.config import MAX, GgufModel, RopeConfig, refuse_hf_variants
from sampan.models.family import Family
from sampan.models.fields import Fields
from sampan.models.latent import DRAFT, LatentConfig, build, forward, parts
from sampan.models.latent_gguf import LAYER, TURNED, experts_from_gguf, latent_from_gguf, latent_to_hf
from sampan.models.mixture import ExpertConfig, experts_of

_MAX_RANK = 2**14
_SIZES = {"plain": "qk_nope_head_dim", "rotated": "qk_rope_head_dim", "value": "v_head_dim"}


def read_hf(fields: Fields) -> LatentConfig:
    """Of a `config.json`."""
    expect(fields, "scoring_func", "sigmoid")
    expect(fields, "topk_method", "noaux_tc")
    groups = fields.integer("n_group", 1, high=MAX["heads"])
    experts = experts_of(
        fields,
        "n_routed_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
        shared=shared_ffn(fields),
        scores="sigmoid",
        bias=True,
        groups=groups,
        groups_kept=fields.integer("topk_group", 1, high=groups),
        group_top=2,
        normalised=fields.flag("norm_topk_prob", True),
        scale=fields.number("routed_scaling_factor", 1.0, high=1e4),
    )
    return latent_from_hf(fields, "deepseek_v3", experts)


def read_gguf(model: GgufModel) -> LatentConfig:
    """Of a GGUF file whose router takes a sigmoid."""
    experts = experts_from_gguf(model, scores="sigmoid", bias=True, group_top=2)
    return latent_from_gguf(model, "deepseek_v3", experts)


def shared_ffn(fields: Fields) -> int:
    """Features inside of the shared expert."""
    shared = fields.integer("n_shared_experts", 0, low=0, high=64)
    return shared * fields.integer("moe_intermediate_size", high=MAX["ffn"])


def latent_from_hf(fields: Fields, family: str, experts: ExpertConfig) -> LatentConfig:
    """What DeepSeek's families share."""
    refuse_hf_variants(fields)
    if fields.integer("moe_layer_freq", 1, high=MAX["layers"]) != 1:
        raise UnsupportedModel(f"{fields.source}: moe_layer_freq is not 1: that is not supported")
    sizes = {
        name: fields.integer(of, high=MAX["heads"])
        for name, of in (
            ("plain", "qk_nope_head_dim"),
            ("rotated", "qk_rope_head_dim"),
            ("value", "v_head_dim"),
        )
    }
    context = fields.integer("max_position_embeddings", high=MAX["context"])
    rotation = rope.from_hf(fields, sizes["rotated"], context)
    query = 0 if fields.values.get("q_lora_rank") is None else fields.integer("q_lora_rank", high=_MAX_RANK)
    layers = fields.integer("num_hidden_layers", high=MAX["layers"])
    return LatentConfig(
        family=family,
        hidden=fields.integer("hidden_size", high=MAX["hidden"]),
        layers=layers,
        vocab=fields.integer("vocab_size", high=MAX["vocab"]),
        context=rotation.context,
        tied_head=fields.flag("tie_word_embeddings", False),
        heads=fields.integer("num_attention_heads", high=MAX["heads"]),
        query=query,
        latent=fields.integer("kv_lora_rank", high=_MAX_RANK),
        **sizes,
        scale=_scale(fields, sizes["plain"] + sizes["rotated"]),
        ffn=fields.integer("intermediate_size", high=MAX["ffn"]),
        dense=fields.integer("first_k_dense_replace", 0, low=0, high=layers),
        experts=experts,
        norm_eps=fields.number("rms_norm_eps", 1e-6, high=1.0),
        rope=RopeConfig(tuple(float(value) for value in rotation.inv_freq), rotation.scale),
        form="interleaved" if fields.flag("rope_interleave", True) else "half",
        bias=fields.flag("attention_bias", False),
    )


def _scale(fields: Fields, head: int) -> float:
    """Of the scores; a folder made of a GGUF file says it itself."""
    given = fields.section("rope_parameters" if "rope_parameters" in fields else "rope_scaling")
    if "score_scale" in given:
        return given.number("score_scale", high=1e3)
    return float(head**-0.5 * _mscale(given) ** 2)


def _mscale(given: Fields) -> float:
    """YaRN's factor of queries and keys that DeepSeek takes into the scores."""
    factor = given.number("factor", 1.0, high=1e6)
    all_dim = given.number("mscale_all_dim", 0.0, low=0, high=1e3)
    return 1.0 if factor <= 1 or not all_dim else 0.1 * all_dim * math.log(factor) + 1.0


def expect(fields: Fields, name: str, value: str) -> None:
    """Refuse another value of a field than the family has."""
    if fields.text(name, value) != value:
        raise UnsupportedModel(
            f"{fields.source}: {name} {fields.text(name)[:40]!r} is not supported: {value} is"
        )


FAMILY = Family(
    name="deepseek_v3",
    from_hf=read_hf,
    from_gguf=read_gguf,
    to_hf=latent_to_hf,
    architectures=("deepseek2",),
    layer=LAYER,
    turned=TURNED,
    build=build,
    forward=forward,
    parts=parts,
    draft=DRAFT,
)

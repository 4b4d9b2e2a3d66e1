"""DeepSeek-V2 and V2-Lite (arXiv:2405.04434): V3's decoder, whose router takes a softmax."""

from collections.abc import Mapping

from sampan.core.errors import UnsupportedModel
from sampan.models.config import MAX, GgufModel
from sampan.models.deepseek_v3 import expect, latent_from_hf, shared_ffn
from sampan.models.family import Family
from sampan.models.fields import Fields
from sampan.models.latent import LatentConfig, build, forward, parts
from sampan.models.latent_gguf import (
    LAYER,
    TURNED,
    experts_from_gguf,
    gating,
    latent_from_gguf,
    latent_to_hf,
)
from sampan.models.mixture import experts_of


def read_hf(fields: Fields) -> LatentConfig:
    """Of a `config.json`."""
    method = fields.text("topk_method", "greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise UnsupportedModel(f"{fields.source}: topk_method {method[:40]!r} is not supported")
    expect(fields, "scoring_func", "softmax")
    if fields.flag("norm_topk_prob", False):
        raise UnsupportedModel(f"{fields.source}: norm_topk_prob true is not supported for this family")
    groups = fields.integer("n_group", 1, high=MAX["heads"]) if method == "group_limited_greedy" else 1
    experts = experts_of(
        fields,
        "n_routed_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
        shared=shared_ffn(fields),
        groups=groups,
        groups_kept=fields.integer("topk_group", 1, high=groups) if groups > 1 else 1,
        normalised=False,
        scale=fields.number("routed_scaling_factor", 1.0, high=1e4),
    )
    return latent_from_hf(fields, "deepseek_v2", experts)


def to_hf(c: LatentConfig, metadata: Mapping[str, object]) -> dict[str, object]:
    """The `config.json` of a GGUF file's model."""
    method = "group_limited_greedy" if c.experts.groups > 1 else "greedy"
    return latent_to_hf(c, metadata) | {"topk_method": method}


def read_gguf(model: GgufModel) -> LatentConfig:
    """Of a GGUF file whose router takes a softmax."""
    experts = experts_from_gguf(model)
    if experts.normalised:
        raise UnsupportedModel(
            f"{model.source}: {model.architecture}.expert_weights_norm is not supported with a softmax"
        )
    return latent_from_gguf(model, "deepseek_v2", experts)


FAMILY = Family(
    name="deepseek_v2",
    from_hf=read_hf,
    from_gguf=read_gguf,
    to_hf=to_hf,
    architectures=("deepseek2",),
    special=lambda model: gating(model) == "softmax",
    layer=LAYER,
    turned=TURNED,
    build=build,
    forward=forward,
    parts=parts,
)

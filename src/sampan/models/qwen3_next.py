"""Qwen3-Next: Qwen3-Next-80B-A3B. A hybrid (`hybrid.py`) with experts in every layer, whose files keep a key
head's inputs together."""

from collections.abc import Mapping

from sampan.kernels.ops import Linear, Weight
from sampan.models import hybrid
from sampan.models.config import MAX, GgufModel
from sampan.models.family import Family
from sampan.models.fields import Fields
from sampan.models.hybrid import DRAFT, Model, forward
from sampan.models.hybrid_config import HybridConfig, hybrid_from_hf
from sampan.models.hybrid_gguf import LAYER, hybrid_from_gguf, hybrid_to_hf, stored
from sampan.models.mixture import experts_of
from sampan.models.qwen3_moe import dense_layers, expert_count


def read_hf(fields: Fields) -> HybridConfig:
    """Of a `config.json`."""
    experts = experts_of(
        fields,
        expert_count(fields),
        "num_experts_per_tok",
        "moe_intermediate_size",
        normalised=fields.flag("norm_topk_prob", True),
        shared=fields.integer("shared_expert_intermediate_size", high=MAX["ffn"]),
        shared_gate=True,
    )
    layers = fields.integer("num_hidden_layers", high=MAX["layers"])
    return hybrid_from_hf(
        fields,
        "qwen3_next",
        ffn=fields.integer("intermediate_size", high=MAX["ffn"]),
        dense=dense_layers(fields, layers),
        experts=experts,
    )


def read_gguf(model: GgufModel) -> HybridConfig:
    """Of a GGUF file."""
    return hybrid_from_gguf(model, "qwen3_next")


def to_hf(c: HybridConfig, _metadata: Mapping[str, object]) -> dict[str, object]:
    """The `config.json` of a GGUF file's model."""
    return hybrid_to_hf(c, "qwen3_next", "Qwen3NextForCausalLM")


def build(c: HybridConfig) -> Model:
    """The weights by their Hugging Face names; of `in_proj_qkvz` a key head's each."""
    return hybrid.build(c, _inputs)


def _sizes(c: HybridConfig) -> dict[str, int]:
    """Rows of a key head in `in_proj_qkvz`, in their order."""
    values = c.delta_heads // c.key_heads * c.value_size
    return {"q": c.key_size, "k": c.key_size, "v": values, "z": values}


def _inputs(c: HybridConfig, at: str, fine: bool) -> Linear:
    each = [
        Weight(f"{at}in_proj_qkvz.{x}.{head}.weight", (size, c.hidden), fine)
        for x, size in _sizes(c).items()
        for head in range(c.key_heads)
    ]
    gates = Weight(f"{at}in_proj_ba.weight", (2 * c.delta_heads, c.hidden), fine)
    return Linear((*each, gates), joined=(3 * c.key_heads, c.key_heads, 1))


def parts(c: HybridConfig, name: str, shape: tuple[int, ...]) -> Mapping[str, int]:
    """See `Family.parts`; in GGUF z is apart, and q, k and v are each all key heads'."""
    at, sizes = name.rpartition("in_proj_")[0], _sizes(c)
    for kind in ("qkv", "z"):
        if name.endswith(f"linear_attn.in_proj_{kind}.weight"):
            each = [(x, head) for x in kind for head in range(c.key_heads)]
            return {f"{at}in_proj_qkvz.{x}.{head}.weight": sizes[x] for x, head in each}
    if name.endswith("linear_attn.in_proj_qkvz.weight"):
        return {f"{at}in_proj_qkvz.{x}.{head}.weight": sizes[x] for head in range(c.key_heads) for x in sizes}
    return hybrid.parts(c, name, shape)


FAMILY = Family(
    name="qwen3_next",
    from_hf=read_hf,
    from_gguf=read_gguf,
    to_hf=to_hf,
    architectures=("qwen3next",),
    layer=LAYER,
    build=build,
    forward=forward,
    parts=parts,
    stored=stored,
    draft=DRAFT,
)

"""Qwen3.5, with an MLP in each layer or with experts: Qwen3.5-9B, Qwen3.5-35B-A3B. Hybrids (`hybrid.py`), of
which the part that reads and writes text is run; the encoder of pictures is passed over."""

from collections.abc import Mapping

from sampan.core.errors import UnsupportedModel
from sampan.kernels.ops import Linear
from sampan.models import hybrid
from sampan.models.config import MAX, GgufModel
from sampan.models.family import Family
from sampan.models.fields import Fields
from sampan.models.hybrid import DRAFT, Model, forward
from sampan.models.hybrid_config import HybridConfig, hybrid_from_hf
from sampan.models.hybrid_gguf import LAYER, hybrid_from_gguf, hybrid_to_hf, stored_in_turn
from sampan.models.mixture import ExpertConfig, experts_of
from sampan.models.qwen3_moe import expert_count

_TEXT = "model.language_model."


def read_hf(fields: Fields) -> HybridConfig:
    """Of a `config.json`, whose `text_config` describes the model where there is one."""
    tied = fields.flag("tie_word_embeddings", False)
    mixed = "_moe" in fields.text("model_type")
    if "text_config" in fields:
        fields = fields.section("text_config")
    if not fields.flag("attn_output_gate", True):
        raise UnsupportedModel(f"{fields.source}: attn_output_gate false is not supported")
    return hybrid_from_hf(
        fields,
        "qwen3_5",
        ffn=0 if mixed else fields.integer("intermediate_size", high=MAX["ffn"]),
        dense=frozenset(),
        experts=_experts(fields) if mixed else None,
        tied=tied,
    )


def _experts(fields: Fields) -> ExpertConfig:
    return experts_of(
        fields,
        expert_count(fields),
        "num_experts_per_tok",
        "moe_intermediate_size",
        shared=fields.integer("shared_expert_intermediate_size", high=MAX["ffn"]),
        shared_gate=True,
    )


def read_gguf(model: GgufModel) -> HybridConfig:
    """Of a GGUF file."""
    return hybrid_from_gguf(model, "qwen3_5", dense=False)


def to_hf(c: HybridConfig, _metadata: Mapping[str, object]) -> dict[str, object]:
    """The `config.json` of a GGUF file's model."""
    if c.experts:
        return hybrid_to_hf(c, "qwen3_5_moe_text", "Qwen3_5MoeForCausalLM")
    return hybrid_to_hf(c, "qwen3_5_text", "Qwen3_5ForCausalLM")


def build(c: HybridConfig) -> Model:
    """The weights by the Hugging Face names of the model of text alone."""
    return hybrid.build(c, _inputs)


def _inputs(c: HybridConfig, at: str, fine: bool) -> Linear:
    values, heads = c.delta_heads * c.value_size, c.delta_heads
    names = [f"{at}in_proj_{x}" for x in ("qkv", "z", "b", "a")]
    sizes = (2 * c.key_heads * c.key_size + values, values, heads, heads)
    return Linear.of(*names, sizes=sizes, inputs=c.hidden, fine=(fine,) * 4)


def parts(c: HybridConfig, name: str, shape: tuple[int, ...]) -> Mapping[str, int]:
    """See `Family.parts`: the model's names inside of one that reads pictures too."""
    inner = name.replace(_TEXT, "model.", 1)
    found = hybrid.parts(c, inner, shape)
    if found or inner == name:
        return found
    return {inner: shape[0]}


FAMILY = Family(
    name="qwen3_5",
    model_types=("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"),
    from_hf=read_hf,
    from_gguf=read_gguf,
    to_hf=to_hf,
    architectures=("qwen35", "qwen35moe"),
    layer=LAYER,
    build=build,
    forward=forward,
    parts=parts,
    stored=stored_in_turn,
    draft=DRAFT,
    beside=("model.visual.",),
)

"""Every family is found by its name, and describes the tensors of transformers' model."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sampan.core.errors import UnsupportedModel
from sampan.models import registry
from sampan.models.config import ModelConfig

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 96,
    "vocab_size": 80,
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen2", {}),
    ("qwen3", {"tie_word_embeddings": True}),
    ("qwen3", {"attention_bias": True}),
]


ROUTED = {"num_experts_per_tok": 2, "first_k_dense_replace": 1, "moe_intermediate_size": 48}


def both(family: str, fields: dict[str, Any]) -> tuple[ModelConfig, dict[str, tuple[int, ...]]]:
    """Our configuration of a model, and transformers' parameters."""
    theirs = AutoConfig.for_model(family, **SIZES | fields)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(theirs)
    return registry.from_hf(theirs.to_dict()), {name: tuple(p.shape) for name, p in model.named_parameters()}


@pytest.mark.parametrize(("family", "fields"), VARIANTS, ids=str)
def test_a_description_names_the_tensors_of_transformers(family: str, fields: dict[str, Any]) -> None:
    ours, parameters = both(family, fields)
    weights = registry.describe(ours).weights()
    assert {name: weight.shape for name, weight in weights.items()} == parameters
    assert all(name == weight.name for name, weight in weights.items())


@pytest.mark.parametrize("family", registry.families())
def test_the_last_layer_and_the_head_keep_sixteen_bits(family: str) -> None:
    """And what latent attention makes its queries and keys with."""
    routed = ROUTED if family not in ("llama", "qwen2", "qwen3") else {}
    kind = family + "_text" * (family == "qwen3_5")
    weights = registry.describe(both(kind, routed)[0]).weights().values()
    products = [weight for weight in weights if not weight.exact and "conv1d" not in weight.name]
    matrices = {weight.name for weight in products if len(weight.shape) == 2}
    fine = {weight.name for weight in weights if weight.fine}
    always = (".layers.2.", "lm_head.", ".q_a_proj.", ".q_b_proj.", ".kv_a_proj_with_mqa.", ".kv_b_proj.")
    assert fine == {name for name in matrices if any(part in name for part in always)}


def test_an_unknown_family_is_unsupported() -> None:
    known = both("llama", {})[0]
    with pytest.raises(UnsupportedModel, match=r"'mamba' is not supported: .*llama, .*qwen3_next are"):
        registry.describe(replace(known, family="mamba"))

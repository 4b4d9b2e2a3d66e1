"""Configurations of mixtures of experts: what is read, and what is refused by name."""

from typing import Any

import pytest

from sampan.core.errors import UnsupportedModel, WeightsError
from sampan.models import registry
from sampan.models.config import GgufModel
from sampan.models.latent import LatentConfig
from sampan.models.sparse import SparseConfig

SIZES = {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "vocab_size": 80, "max_position_embeddings": 256, "rms_norm_eps": 1e-6,
    "moe_intermediate_size": 32, "num_experts_per_tok": 2, "hidden_act": "silu",
}  # fmt: skip
QWEN3: dict[str, Any] = SIZES | {"model_type": "qwen3_moe", "num_experts": 8, "norm_topk_prob": True}
MIXTRAL: dict[str, Any] = SIZES | {"model_type": "mixtral", "num_local_experts": 8}
DEEPSEEK: dict[str, Any] = SIZES | {
    "model_type": "deepseek_v3", "n_routed_experts": 8, "n_group": 4, "topk_group": 2, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "kv_lora_rank": 32, "q_lora_rank": 48, "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32, "v_head_dim": 32, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
}  # fmt: skip
V2 = DEEPSEEK | {"model_type": "deepseek_v2", "scoring_func": "softmax", "topk_method": "greedy"}


def test_layers_without_experts_are_found() -> None:
    c = registry.from_hf(QWEN3 | {"decoder_sparse_step": 2, "mlp_only_layers": [3]})
    assert isinstance(c, SparseConfig)
    assert c.dense == {0, 2, 3}
    assert c.experts.normalised


def test_the_scale_of_deepseeks_scores_has_yarns_factor_twice() -> None:
    rope = {
        "type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32, "beta_slow": 1,
        "original_max_position_embeddings": 4096,
    }  # fmt: skip
    published = {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "rope_scaling": rope}
    c = registry.from_hf(DEEPSEEK | published | {"max_position_embeddings": 163840})
    assert isinstance(c, LatentConfig)
    assert c.scale == pytest.approx(0.135234, rel=1e-5)
    assert c.rope.scale == 1.0


def test_layers_behind_the_last_one_are_passed_over() -> None:
    family = registry.family_named("deepseek_v3", "test")
    c = registry.from_hf(DEEPSEEK)
    assert family.ignores("model.layers.4.eh_proj.weight", c)
    assert not family.ignores("model.layers.3.mlp.gate.weight", c)


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        (QWEN3 | {"num_experts_per_tok": 9}, WeightsError, "num_experts_per_tok is 9, of 8 experts"),
        (QWEN3 | {"mlp_only_layers": "all"}, WeightsError, "mlp_only_layers"),
        (QWEN3 | {"num_experts": 0}, WeightsError, "num_experts"),
        (DEEPSEEK | {"scoring_func": "softmax"}, UnsupportedModel, "scoring_func 'softmax'"),
        (DEEPSEEK | {"topk_method": "greedy"}, UnsupportedModel, "topk_method 'greedy'"),
        (V2 | {"scoring_func": "sigmoid"}, UnsupportedModel, "scoring_func 'sigmoid'"),
        (V2 | {"topk_method": "noaux_tc"}, UnsupportedModel, "topk_method 'noaux_tc'"),
        (V2 | {"norm_topk_prob": True}, UnsupportedModel, "norm_topk_prob"),
        (DEEPSEEK | {"rope_scaling": {"type": "dynamic"}}, UnsupportedModel, "rope type 'dynamic'"),
        (DEEPSEEK | {"moe_layer_freq": 2}, UnsupportedModel, "moe_layer_freq"),
        (DEEPSEEK | {"n_group": 3, "topk_group": 3}, WeightsError, "3 groups do not divide"),
        (DEEPSEEK | {"num_experts_per_tok": 5}, WeightsError, "in 2 of 4 groups"),
        (MIXTRAL | {"sliding_window": 64}, UnsupportedModel, "sliding"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_at_odds_is_refused_by_name(
    fields: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        registry.from_hf(fields)


GGUF: dict[str, Any] = {
    "general.architecture": "deepseek2", "block_count": 4, "context_length": 256, "embedding_length": 64,
    "feed_forward_length": 96, "attention.head_count": 4, "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.kv_lora_rank": 32, "attention.key_length": 64, "attention.value_length": 32,
    "rope.dimension_count": 32, "rope.freq_base": 1e4, "vocab_size": 80, "expert_count": 8,
    "expert_used_count": 2, "expert_feed_forward_length": 32, "expert_gating_func": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"expert_gating_func": 3}, UnsupportedModel, "expert_gating_func 3 is not supported"),
        ({"expert_gating_func": 1, "expert_weights_norm": True}, UnsupportedModel, "expert_weights_norm"),
        ({"expert_used_count": 9}, WeightsError, "expert_used_count is 9, of 8 experts"),
        ({"expert_count": None}, WeightsError, "expert_count is missing"),
        ({"expert_group_count": 3, "expert_group_used_count": 3}, WeightsError, "3 groups do not divide"),
        ({"rope.scaling.type": "longrope"}, UnsupportedModel, "scaling.type 'longrope'"),
        ({"rope.scaling.attn_factor": 0.5}, UnsupportedModel, "scaling.attn_factor"),
        ({"rope.dimension_count": 64}, WeightsError, "dimension_count is 64"),
        ({"attention.key_length_mla": 64}, WeightsError, "value_length_mla is missing"),
        ({"attention.kv_lora_rank": None}, WeightsError, "kv_lora_rank is missing"),
        ({"nextn_predict_layers": 4}, WeightsError, "block_count must be from 5"),
        ({"attention.temperature_scale": 0.1}, UnsupportedModel, "temperature_scale"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_gguf_at_odds_is_refused_by_its_key(
    fields: dict[str, Any], error: type[Exception], said: str
) -> None:
    given = {key if "general" in key else f"deepseek2.{key}": value for key, value in (GGUF | fields).items()}
    with pytest.raises(error, match=said):
        registry.from_gguf(GgufModel({key: value for key, value in given.items() if value is not None}, {}))


def test_a_llama_with_experts_is_a_mixtral() -> None:
    shared = ("general.architecture", "block_count", "context_length", "embedding_length", "vocab_size")
    shared += ("feed_forward_length", "attention.head_count", "attention.layer_norm_rms_epsilon")
    given = {key if "general" in key else f"llama.{key}": GGUF[key] for key in shared}
    given["general.architecture"] = "llama"
    assert registry.from_gguf(GgufModel(given, {})).family == "llama"
    assert registry.from_gguf(GgufModel(given | {"llama.expert_count": 0}, {})).family == "llama"
    experts = {"llama.expert_count": 8, "llama.expert_used_count": 2}
    c = registry.from_gguf(GgufModel(given | experts, {"blk.0.ffn_gate_inp.weight": (8, 64)}))
    assert isinstance(c, SparseConfig)
    assert (c.family, c.experts.count, c.experts.ffn) == ("mixtral", 8, 96)

"""Configurations of mixtures of experts: what is read, and what is refused by name."""

from typing import Any

import pytest

from sampan.core.errors import UnsupportedModel, WeightsError
from sampan.models import registry
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


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        (QWEN3 | {"num_experts_per_tok": 9}, WeightsError, "num_experts_per_tok is 9, of 8 experts"),
        (QWEN3 | {"mlp_only_layers": "all"}, WeightsError, "mlp_only_layers"),
        (QWEN3 | {"num_experts": 0}, WeightsError, "num_experts"),
        (DEEPSEEK | {"scoring_func": "softmax"}, UnsupportedModel, "scoring_func 'softmax'"),
        (DEEPSEEK | {"topk_method": "greedy"}, UnsupportedModel, "topk_method 'greedy'"),
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

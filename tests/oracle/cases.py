"""Configurations of tiny models of every family."""

CONTEXT = 512
SMALL = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "vocab_size": 256,
    "max_position_embeddings": CONTEXT,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
# What differs from SMALL. Vocabularies of 333 and 200 are no whole number of panels; heads of 64 with six or
# four of them are wider than the hidden size.
CASES: dict[str, dict[str, object]] = {
    "llama": {"model_type": "llama", "vocab_size": 333},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True, "num_key_value_heads": 4},
    "llama-biased": {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "head_dim": 64},
    "llama-llama3": {
        "model_type": "llama",
        "rope_parameters": LLAMA3 | {"original_max_position_embeddings": 64, "rope_theta": 1e4},
    },
    "llama-linear": {
        "model_type": "llama",
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
    },
    "llama-yarn": {"model_type": "llama", "rope_parameters": YARN | {"rope_theta": 1e5}},
    "qwen2": {"model_type": "qwen2", "vocab_size": 200, "num_key_value_heads": 1},
    "qwen2-tied": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2-yarn": {"model_type": "qwen2", "rope_parameters": YARN | {"rope_theta": 1e6}},
    "qwen3": {"model_type": "qwen3", "head_dim": 64, "vocab_size": 333, "num_attention_heads": 6},
    "qwen3-tied": {"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True, "hidden_size": 96},
    # No size is of whole blocks of 32: heads, hidden and feed-forward features are padded.
    "llama-odd": {
        "model_type": "llama", "hidden_size": 72, "head_dim": 50, "intermediate_size": 100, "vocab_size": 131,
        "attention_bias": True, "mlp_bias": True,
    },
    "qwen3-odd": {
        "model_type": "qwen3", "hidden_size": 90, "head_dim": 20, "num_attention_heads": 6,
        "intermediate_size": 77,
    },
    "llama-tiny": {
        "model_type": "llama", "hidden_size": 16, "num_key_value_heads": 4, "intermediate_size": 64,
        "tie_word_embeddings": True,
    },
    "qwen2-equal": {"model_type": "qwen2", "intermediate_size": 128},
}  # fmt: skip
MIXED = {"moe_intermediate_size": 64, "num_experts": 8, "num_experts_per_tok": 3}
DEEPSEEK = {
    "moe_intermediate_size": 64, "n_routed_experts": 8, "num_experts_per_tok": 3, "kv_lora_rank": 64,
    "q_lora_rank": 96, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 64,
    "num_key_value_heads": 4,
    "n_shared_experts": 2, "first_k_dense_replace": 1, "num_hidden_layers": 3, "pad_token_id": None,
    "eos_token_id": 1, "bos_token_id": 0,
}  # fmt: skip
MSCALE = YARN | {"rope_theta": 1e4, "mscale": 1.0, "mscale_all_dim": 1.0}
# Mixtures of experts, and latent attention.
SPARSE: dict[str, dict[str, object]] = {
    "qwen2_moe": {"model_type": "qwen2_moe", "shared_expert_intermediate_size": 96, **MIXED},
    "qwen2_moe-some": {
        "model_type": "qwen2_moe", "shared_expert_intermediate_size": 96, "num_hidden_layers": 4,
        "decoder_sparse_step": 2, "mlp_only_layers": [3], "norm_topk_prob": True, **MIXED,
    },
    "qwen3_moe": {"model_type": "qwen3_moe", "head_dim": 64, "norm_topk_prob": True, **MIXED},
    "qwen3_moe-plain": {"model_type": "qwen3_moe", "head_dim": 32, "tie_word_embeddings": True, **MIXED},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 6, "num_experts_per_tok": 2},
    "deepseek_v3": {"model_type": "deepseek_v3", "n_group": 4, "topk_group": 2, **DEEPSEEK},
    "deepseek_v3-plain": {
        "model_type": "deepseek_v3", "n_group": 1, "topk_group": 1, **DEEPSEEK, "q_lora_rank": None,
        "norm_topk_prob": False, "attention_bias": True, "rope_interleave": False,
    },
    "deepseek_v3-yarn": {
        "model_type": "deepseek_v3", "n_group": 2, "topk_group": 1, **DEEPSEEK, "rope_parameters": MSCALE
    },
    "deepseek_v2": {
        "model_type": "deepseek_v2", "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2,
        **DEEPSEEK,
    },
    "deepseek_v2-lite": {
        "model_type": "deepseek_v2", "topk_method": "greedy", **DEEPSEEK, "q_lora_rank": None,
        "rope_parameters": MSCALE,
    },
    # Sizes that are not of whole blocks; transformers' own products of experts want multiples of eight.
    "qwen3_moe-odd": {
        "model_type": "qwen3_moe", "head_dim": 22, "hidden_size": 88, **MIXED, "moe_intermediate_size": 56,
    },
    "deepseek_v3-odd": {
        "model_type": "deepseek_v3", "n_group": 4, "topk_group": 2, **DEEPSEEK, "hidden_size": 104,
        "intermediate_size": 100, "moe_intermediate_size": 24, "kv_lora_rank": 52, "q_lora_rank": 70,
        "qk_nope_head_dim": 20, "qk_rope_head_dim": 12, "v_head_dim": 28,
    },
}  # fmt: skip
DELTA = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 32,
    "linear_value_head_dim": 64, "head_dim": 64, "num_hidden_layers": 4,
}  # fmt: skip
# The gated delta rule in most layers.
HYBRID: dict[str, dict[str, object]] = {
    "qwen3_next": {
        "model_type": "qwen3_next", "shared_expert_intermediate_size": 96, "decoder_sparse_step": 2, **MIXED,
        **DELTA,
    },
    "qwen3_5": {"model_type": "qwen3_5_text", **DELTA, "linear_conv_kernel_dim": 3, "vocab_size": 333},
    "qwen3_5-last": {
        "model_type": "qwen3_5_text", **DELTA, "layer_types": ["full_attention", "linear_attention"],
        "num_hidden_layers": 2, "linear_num_key_heads": 4, "tie_word_embeddings": True,
    },
    "qwen3_5_moe": {
        "model_type": "qwen3_5_moe_text", "shared_expert_intermediate_size": 96, **MIXED, **DELTA,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5,
            "mrope_interleaved": True, "mrope_section": [6, 5, 5],
        },
    },
    # Heads of no whole vectors of 16, and channels of none.
    "qwen3_next-odd": {
        "model_type": "qwen3_next", "shared_expert_intermediate_size": 72, **MIXED, **DELTA,
        "hidden_size": 88, "moe_intermediate_size": 56, "head_dim": 40, "linear_key_head_dim": 24,
        "linear_value_head_dim": 40,
    },
    "qwen3_5-odd": {
        "model_type": "qwen3_5_text", **DELTA, "hidden_size": 72, "intermediate_size": 100, "head_dim": 24,
        "linear_num_key_heads": 1, "linear_num_value_heads": 3, "linear_key_head_dim": 20,
        "linear_value_head_dim": 12, "linear_conv_kernel_dim": 5,
    },
}  # fmt: skip

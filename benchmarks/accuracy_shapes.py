"""The models whose accuracy is compared: one width and depth, so that only what a family adds differs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from random_models import Shape, Tensors, attention, experts, gated


@dataclass(frozen=True)
class Sizes:
    """What the families share. `head`: features of one; `ffn`: of an MLP, `inner`: of an expert."""

    hidden: int = 1024
    vocabulary: int = 4096
    heads: int = 8
    head: int = 128
    ffn: int = 2816
    inner: int = 512
    layers: int = 6

    @property
    def config(self) -> dict[str, Any]:
        """Of every family's `config.json`."""
        return {
            "hidden_size": self.hidden, "num_hidden_layers": self.layers, "vocab_size": self.vocabulary,
            "rms_norm_eps": 1e-6, "max_position_embeddings": 4096, "tie_word_embeddings": False,
            "intermediate_size": self.ffn, "num_attention_heads": self.heads, "num_key_value_heads": 2,
            "rope_theta": 1e6, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
        }  # fmt: skip

    @property
    def grouped(self) -> dict[str, Any]:
        """Fields in GGUF of grouped-query attention."""
        return {
            "attention.head_count": self.heads, "attention.head_count_kv": 2,
            "attention.key_length": self.head, "attention.value_length": self.head, "rope.freq_base": 1e6,
            "feed_forward_length": self.ffn,
        }  # fmt: skip

    @property
    def norms(self) -> dict[str, int]:
        """Of a layer with norms of heads."""
        return {
            "attn_norm": self.hidden, "ffn_norm": self.hidden,
            "attn_q_norm": self.head, "attn_k_norm": self.head,
        }  # fmt: skip


Made = tuple[Shape, dict[str, Any]]
COUNT, CHOSEN = 32, 4  # experts


def qwen3(s: Sizes) -> Made:
    """The dense family that the others are compared with."""
    tensors = Tensors(attention(s.hidden, s.heads, 2, s.head) | gated(s.hidden, s.ffn), s.norms)
    config = s.config | {"model_type": "qwen3", "head_dim": s.head}
    return Shape("qwen3", s.layers, s.hidden, tensors, s.grouped, s.vocabulary), config


def qwen3_moe(s: Sizes) -> Made:
    """32 experts, 4 a token."""
    matrices = attention(s.hidden, s.heads, 2, s.head) | experts(s.hidden, s.inner, COUNT)
    tensors = Tensors(matrices, s.norms, {"ffn_gate_inp": (COUNT, s.hidden)})
    fields = s.grouped | {
        "expert_count": COUNT, "expert_used_count": CHOSEN, "expert_feed_forward_length": s.inner,
    }  # fmt: skip
    config = s.config | {
        "model_type": "qwen3_moe", "head_dim": s.head, "num_experts": COUNT, "num_experts_per_tok": CHOSEN,
        "moe_intermediate_size": s.inner, "norm_topk_prob": True,
    }  # fmt: skip
    return Shape("qwen3moe", s.layers, s.hidden, tensors, fields, s.vocabulary), config


def deepseek_v3(s: Sizes) -> Made:
    """Latent attention; 32 experts in 8 groups, 4 a token, one shared."""
    hidden, heads, query, lora, rope = s.hidden, s.heads, s.hidden * 3 // 8, s.hidden // 4, s.head // 2
    latent = {
        "attn_q_a": (query, hidden), "attn_q_b": (heads * (s.head + rope), query),
        "attn_kv_a_mqa": (lora + rope, hidden), "attn_kv_b": (heads * 2 * s.head, lora),
        "attn_output": (hidden, heads * s.head),
    }  # fmt: skip
    shared = {f"{name}_shexp": shape for name, shape in gated(hidden, s.inner).items()}
    tensors = Tensors(
        latent | experts(hidden, s.inner, COUNT) | shared,
        {"attn_norm": hidden, "ffn_norm": hidden, "attn_q_a_norm": query, "attn_kv_a_norm": lora},
        {"ffn_gate_inp": (COUNT, hidden)},
        {"exp_probs_b": COUNT},
    )
    fields = {
        "feed_forward_length": s.ffn, "attention.head_count": heads, "attention.head_count_kv": heads,
        "attention.q_lora_rank": query, "attention.kv_lora_rank": lora,
        "attention.key_length": s.head + rope, "attention.value_length": s.head,
        "rope.dimension_count": rope, "rope.freq_base": 1e6, "leading_dense_block_count": 0,
        "expert_count": COUNT, "expert_used_count": CHOSEN, "expert_shared_count": 1,
        "expert_group_count": 8, "expert_group_used_count": 4, "expert_feed_forward_length": s.inner,
        "expert_weights_scale": 2.5, "expert_weights_norm": True, "expert_gating_func": 2,
    }  # fmt: skip
    config = s.config | {
        "model_type": "deepseek_v3", "q_lora_rank": query, "kv_lora_rank": lora, "qk_nope_head_dim": s.head,
        "qk_rope_head_dim": rope, "v_head_dim": s.head, "first_k_dense_replace": 0, "n_routed_experts": COUNT,
        "num_experts_per_tok": CHOSEN, "n_shared_experts": 1, "n_group": 8, "topk_group": 4,
        "moe_intermediate_size": s.inner, "routed_scaling_factor": 2.5, "num_key_value_heads": heads,
    }  # fmt: skip
    return Shape("deepseek2", s.layers, hidden, tensors, fields, s.vocabulary), config


FAMILIES: dict[str, Callable[[Sizes], Made]] = {
    "qwen3": qwen3,
    "qwen3_moe": qwen3_moe,
    "deepseek_v3": deepseek_v3,
}

"""KL divergence from transformers in float32 on the same dequantised weights: random checkpoints of families.

    python benchmarks/accuracy_families.py [--tokens 4096] [--cache bf16] [--alike]

Each family's model has the same width and depth, and Q4_1 weights of a trained model's deviation, so that
only what a family adds differs: experts, a router, latent attention. Without training distributions are
flat: figures compare families, and say nothing of a trained model. A router that chose otherwise than the
oracle's shows; `--alike` leaves that out: then a choice changes nothing. Needs the `test` extra.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

from accuracy import native_logits
from random_models import BLOCKS, Shape, Tensors, Writer, attention, experts, gated
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles
from sampan.engine.budget import Wish
from sampan.llm.drafts import DraftWish
from sampan.llm.load import load
from sampan.weights.checkpoint import open_checkpoint

HIDDEN, LAYERS, VOCABULARY, CONTEXT, FFN = 1024, 6, 4096, 512, 512
COMMON = {
    "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 4096, "tie_word_embeddings": False, "intermediate_size": 2816,
    "num_attention_heads": 8, "num_key_value_heads": 2, "rope_theta": 1e6,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
NORMS = {"attn_norm": HIDDEN, "ffn_norm": HIDDEN}
HEADS = NORMS | {"attn_q_norm": 128, "attn_k_norm": 128}
GROUPED = {
    "attention.head_count": 8, "attention.head_count_kv": 2, "attention.key_length": 128,
    "attention.value_length": 128, "rope.freq_base": 1e6, "feed_forward_length": 2816,
}  # fmt: skip


def qwen3() -> tuple[Shape, dict[str, Any]]:
    """The dense family that the others are compared with."""
    tensors = Tensors(attention(HIDDEN, 8, 2, 128) | gated(HIDDEN, 2816), HEADS)
    config = {"model_type": "qwen3", "head_dim": 128}
    return Shape("qwen3", LAYERS, HIDDEN, tensors, GROUPED, VOCABULARY), config


def qwen3_moe() -> tuple[Shape, dict[str, Any]]:
    """32 experts, 4 a token."""
    tensors = Tensors(
        attention(HIDDEN, 8, 2, 128) | experts(HIDDEN, FFN, 32), HEADS, {"ffn_gate_inp": (32, HIDDEN)}
    )
    fields = GROUPED | {"expert_count": 32, "expert_used_count": 4, "expert_feed_forward_length": FFN}
    config = {
        "model_type": "qwen3_moe", "head_dim": 128, "num_experts": 32, "num_experts_per_tok": 4,
        "moe_intermediate_size": FFN, "norm_topk_prob": True,
    }  # fmt: skip
    return Shape("qwen3moe", LAYERS, HIDDEN, tensors, fields, VOCABULARY), config


def deepseek_v3() -> tuple[Shape, dict[str, Any]]:
    """Latent attention; 32 experts in 8 groups, 4 a token, one shared."""
    heads, q_lora, lora, rope, nope, value = 8, 384, 256, 64, 128, 128
    latent = {
        "attn_q_a": (q_lora, HIDDEN), "attn_q_b": (heads * (nope + rope), q_lora),
        "attn_kv_a_mqa": (lora + rope, HIDDEN), "attn_kv_b": (heads * (nope + value), lora),
        "attn_output": (HIDDEN, heads * value),
    }  # fmt: skip
    shared = {f"{name}_shexp": shape for name, shape in gated(HIDDEN, FFN).items()}
    tensors = Tensors(
        latent | experts(HIDDEN, FFN, 32) | shared,
        NORMS | {"attn_q_a_norm": q_lora, "attn_kv_a_norm": lora},
        {"ffn_gate_inp": (32, HIDDEN)},
        {"exp_probs_b": 32},
    )
    fields = {
        "feed_forward_length": 2816, "attention.head_count": heads, "attention.head_count_kv": heads,
        "attention.q_lora_rank": q_lora, "attention.kv_lora_rank": lora, "attention.key_length": nope + rope,
        "attention.value_length": value, "rope.dimension_count": rope, "rope.freq_base": 1e6,
        "leading_dense_block_count": 0, "expert_count": 32, "expert_used_count": 4, "expert_shared_count": 1,
        "expert_group_count": 8, "expert_group_used_count": 4, "expert_feed_forward_length": FFN,
        "expert_weights_scale": 2.5, "expert_weights_norm": True, "expert_gating_func": 2,
    }  # fmt: skip
    config = {
        "model_type": "deepseek_v3", "q_lora_rank": q_lora, "kv_lora_rank": lora, "qk_nope_head_dim": nope,
        "qk_rope_head_dim": rope, "v_head_dim": value, "first_k_dense_replace": 0, "n_routed_experts": 32,
        "num_experts_per_tok": 4, "n_shared_experts": 1, "n_group": 8, "topk_group": 4,
        "moe_intermediate_size": FFN, "routed_scaling_factor": 2.5, "num_key_value_heads": heads,
        "pad_token_id": None,
    }  # fmt: skip
    return Shape("deepseek2", LAYERS, HIDDEN, tensors, fields, VOCABULARY), config


def joined(tensors: dict[str, Any]) -> dict[str, Any]:
    """Latent keys and values as the published files have them: heads one after another in one matrix."""
    for first in [name for name in tensors if name.endswith(".kv_b_proj.k.0.weight")]:
        stem = first.removesuffix("k.0.weight")
        heads = sum(name.startswith(f"{stem}k.") for name in tensors)
        parts = [tensors.pop(f"{stem}{kind}.{head}.weight") for head in range(heads) for kind in "kv"]
        tensors[f"{stem}weight"] = np.concatenate(parts)
    return tensors


def oracle(files: ModelFiles, config: dict[str, Any], folder: Path) -> torch.nn.Module:
    """transformers' model of the file's values."""
    with open_checkpoint(files) as checkpoint:
        save_file(joined({n: checkpoint.array(n) for n in checkpoint.tensors}), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(COMMON | config))
    model, said = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not said["missing_keys"], said
    assert not said["unexpected_keys"], said
    return model.eval()  # type: ignore[no-any-return]


def measure(make: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Divergence over random ids: on average, and without the rows that were routed otherwise."""
    shape, config = make()
    with tempfile.TemporaryDirectory() as name:
        path, found, wanted = Path(name) / "model.gguf", [], []
        Writer(shape, path, "Q4_1", 4096 if args.alike else BLOCKS).write()
        files = ModelFiles(path, "gguf", path.name, str(path))
        model = oracle(files, config, Path(name))
        wish = Wish(context=CONTEXT, cache=args.cache)
        loaded = load(
            files, Settings.from_env(), wish, threads=None, prefix_cache=False, draft=DraftWish("none")
        )
        draw = np.random.default_rng(1)
        for _ in range(args.tokens // CONTEXT):
            ids = draw.integers(0, VOCABULARY, CONTEXT).tolist()
            with torch.no_grad():
                wanted.append(torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1))
            logits = torch.from_numpy(native_logits(loaded.engine, ids))
            found.append(torch.log_softmax(logits.double(), -1))
    p, q = torch.cat(wanted), torch.cat(found)
    divergence = (p.exp() * (p - q)).sum(-1).numpy()
    return {
        "family": shape.arch,
        "kl_mean": float(divergence.mean()),
        "kl_median": float(np.median(divergence)),
        "kl_99": float(np.quantile(divergence, 0.99)),
        "entropy": float(-(p.exp() * p).sum(-1).mean()),
        "same_best": float((p.argmax(-1) == q.argmax(-1)).double().mean()),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--cache", default="bf16")
    parser.add_argument("--alike", action="store_true", help="all experts of a layer have the same weights")
    args = parser.parse_args()
    for make in (qwen3, qwen3_moe, deepseek_v3):
        print(json.dumps(measure(make, args)), flush=True)


if __name__ == "__main__":
    main()

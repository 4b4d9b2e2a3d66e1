"""Writes tiny random DeepSeek-V3 models with a layer for multi-token prediction, by their published names.

Attention and experts add little to a token's embedding (`mixed`), and the layer passes the next token's
embedding on: what comes next depends on the last token most of the time, so that some drafts hold and others
do not.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

HIDDEN, LAYERS, HEADS, FFN, EXPERTS, VOCAB = 64, 3, 2, 96, 8, 264
LATENT, QUERY, PLAIN, ROTATED, VALUE, INNER = 32, 32, 32, 32, 32, 32
CONFIG = {
    "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS, "num_nextn_predict_layers": 1, "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS, "intermediate_size": FFN, "vocab_size": VOCAB,
    "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "moe_intermediate_size": INNER,
    "n_routed_experts": EXPERTS, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 4,
    "topk_group": 2, "first_k_dense_replace": 1, "kv_lora_rank": LATENT, "q_lora_rank": QUERY,
    "qk_nope_head_dim": PLAIN, "qk_rope_head_dim": ROTATED, "v_head_dim": VALUE, "scoring_func": "sigmoid",
    "topk_method": "noaux_tc", "norm_topk_prob": True, "routed_scaling_factor": 2.5, "rope_theta": 1e4,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None, "hidden_act": "silu",
}  # fmt: skip
BEHIND = f"model.layers.{LAYERS}."
Arrays = dict[str, np.ndarray]


def _mlp(at: str, inner: int) -> dict[str, tuple[int, ...]]:
    up = {f"{at}.{name}_proj.weight": (inner, HIDDEN) for name in ("gate", "up")}
    return up | {f"{at}.down_proj.weight": (HIDDEN, inner)}


def shapes() -> dict[str, tuple[int, ...]]:
    """Of every tensor in the file."""
    found: dict[str, tuple[int, ...]] = {"model.norm.weight": (HIDDEN,)}
    found |= {f"{name}.weight": (VOCAB, HIDDEN) for name in ("model.embed_tokens", "lm_head")}
    for n in range(LAYERS + 1):
        at = f"model.layers.{n}."
        found |= {f"{at}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
        found |= {
            f"{at}self_attn.q_a_proj.weight": (QUERY, HIDDEN),
            f"{at}self_attn.q_a_layernorm.weight": (QUERY,),
            f"{at}self_attn.q_b_proj.weight": (HEADS * (PLAIN + ROTATED), QUERY),
            f"{at}self_attn.kv_a_proj_with_mqa.weight": (LATENT + ROTATED, HIDDEN),
            f"{at}self_attn.kv_a_layernorm.weight": (LATENT,),
            f"{at}self_attn.kv_b_proj.weight": (HEADS * (PLAIN + VALUE), LATENT),
            f"{at}self_attn.o_proj.weight": (HIDDEN, HEADS * VALUE),
        }
        if n == 0:
            found |= _mlp(at + "mlp", FFN)
            continue
        found |= {
            f"{at}mlp.gate.weight": (EXPERTS, HIDDEN),
            f"{at}mlp.gate.e_score_correction_bias": (EXPERTS,),
        }
        for expert in range(EXPERTS):
            found |= _mlp(f"{at}mlp.experts.{expert}", INNER)
        found |= _mlp(at + "mlp.shared_experts", INNER)
    found |= {f"{BEHIND}{name}.weight": (HIDDEN,) for name in ("enorm", "hnorm", "shared_head.norm")}
    return found | {BEHIND + "eh_proj.weight": (HIDDEN, 2 * HIDDEN)}


def random_tensors(seed: int = 0, mixed: float = 0.25) -> Arrays:
    """By name. `mixed`: how much layers add to a token's embedding, 1 for as much as in a trained model."""
    rng = np.random.default_rng(seed)
    found: Arrays = {}
    for name, shape in shapes().items():
        noise = rng.standard_normal(shape, np.float32)
        if name.endswith("bias"):
            found[name] = 0.1 * noise
        elif len(shape) == 1:
            found[name] = 1 + 0.2 * noise
        else:
            found[name] = noise * np.float32(shape[1] ** -0.5)
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            found[name] *= mixed
    found["model.embed_tokens.weight"] *= 8  # of the size that layers read
    found["lm_head.weight"] *= 3
    whole = np.concatenate([np.eye(HIDDEN), np.zeros((HIDDEN, HIDDEN))], 1).astype(np.float32)
    found[BEHIND + "eh_proj.weight"] = whole + mixed * found[BEHIND + "eh_proj.weight"]
    return {name: np.ascontiguousarray(x, np.float32) for name, x in found.items()}


def write(folder: Path, tensors: Mapping[str, np.ndarray] | None = None, *, copies: bool = False) -> Arrays:
    """The model in a folder, with a tokenizer of bytes. `copies`: embedding and head are there a second time,
    as the published files have them. Gives the tensors."""
    found = random_tensors() if tensors is None else dict(tensors)
    stored = dict(found)
    if copies:
        stored[BEHIND + "embed_tokens.weight"] = found["model.embed_tokens.weight"].copy()
        stored[BEHIND + "shared_head.head.weight"] = found["lm_head.weight"].copy()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write_text(folder)
    return found


def write_text(folder: Path, first: int = 0) -> None:
    """A tokenizer of bytes, in another order where `first` is given."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = {byte: n for n, byte in enumerate([*alphabet[first:], *alphabet[:first]])}
    tokenizer = Tokenizer(models.BPE(entries, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False}))

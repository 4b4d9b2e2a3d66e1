"""A layer for multi-token prediction beside a tiny model's own, under its published names."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from sampan.models import registry

NAMES = {  # below the layer, as DeepSeek has them, and below `mtp.`, as Qwen has them
    "deepseek_v3": ("eh_proj", "enorm", "hnorm", "shared_head.norm"),
    "qwen": ("fc", "pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"),
}


def add_layer(folder: Path) -> None:
    """Made of a layer that attends, and of noise; the next token's embedding passes on, so that what the
    layer guesses depends on it."""
    tensors = load_file(folder / "model.safetensors")
    config = registry.from_hf(json.loads((folder / "config.json").read_text()))
    qwen = config.family in ("qwen3_next", "qwen3_5")
    last = max(int(name.split(".")[2]) for name in tensors if ".self_attn." in name)
    at = "mtp." if qwen else f"model.layers.{config.layers}."
    own = {}
    for name, values in tensors.items():
        if not name.startswith("model.layers."):
            continue
        layer, rest = name.split(".", 3)[2:]
        # Qwen's layer has an MLP or experts as the first one.
        if layer == ("0" if qwen and rest.startswith("mlp.") else str(last)):
            own[f"{at}layers.0.{rest}" if qwen else at + rest] = values.copy()
    hidden = config.hidden
    mix, *norms = NAMES["qwen" if qwen else "deepseek_v3"]
    noise = np.random.default_rng(3).standard_normal((hidden, 2 * hidden)).astype(np.float32)
    own[f"{at}{mix}.weight"] = np.eye(hidden, 2 * hidden, dtype=np.float32) + 0.1 * hidden**-0.5 * noise
    for norm in norms:
        own[f"{at}{norm}.weight"] = tensors["model.norm.weight"].copy()
    save_file(tensors | own, folder / "model.safetensors", {"format": "pt"})

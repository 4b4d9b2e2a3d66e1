"""Adapters of every kind as PEFT trains and writes them, and models with one merged."""

import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sampan.core.types import ModelFiles
from sampan.models.registry import describe, load_file
from sampan.weights import save
from sampan.weights.checkpoint import open_checkpoint
from sampan.weights.merge import write
from sampan.weights.merge.model import Merged
from sampan.weights.merge.read import read

cases = load_file(Path(__file__).parent / "cases.py")


def base_of(files: ModelFiles) -> PreTrainedModel:
    """Transformers' model of a folder, in float32."""
    return AutoModelForCausalLM.from_pretrained(
        files.path, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def made(folder: Path) -> ModelFiles:
    """A tiny Qwen3 whose heads have the size of every published one's."""
    config = cases.SMALL | {"model_type": "qwen3", "head_dim": 128, "num_attention_heads": 2}
    torch.manual_seed(5)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).save_pretrained(folder)
    return files_of(folder)


def trained(files: ModelFiles, folder: Path, seed: int = 3, **fields: Any) -> None:
    """An adapter as `save_pretrained` writes it, all of whose numbers have moved from where they began."""
    given = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj", "down_proj"]} | fields
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it cannot merge itself
        model = peft.get_peft_model(base_of(files), peft.LoraConfig(task_type="CAUSAL_LM", **given))
        began = str(given.get("init_lora_weights")) in ("pissa", "olora")
        for name, weight in model.named_parameters():
            if "ensure_weight_tying" in fields and "lm_head" in name:
                continue  # shares its numbers with the embedding's
            noise = 0.1 * torch.randn(weight.shape, generator=generator)
            if "lora_magnitude" in name:
                weight.data.mul_(1 + 2 * noise)
            elif weight.requires_grad:
                kept = began or "lora_" not in name
                weight.data.copy_(noise + weight.data * kept)
        model.save_pretrained(folder)


def adapted(files: ModelFiles, folder: Path) -> PreTrainedModel:
    """What PEFT makes of an adapter, not merged: it merges a tied head into the embedding, too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(base_of(files), folder).eval()


def merge(
    files: ModelFiles,
    adapters: Mapping[Path, float],
    out: Path,
    dtype: str = "keep",
    shard: int = write.SHARD,
) -> list[str]:
    """The model with the adapters merged, as a folder; what was passed over."""
    with ExitStack() as stack:
        checkpoint = stack.enter_context(open_checkpoint(files))
        weights, found = describe(checkpoint.config).weights(), []
        for path, scale in adapters.items():
            found.append(read(path, scale, checkpoint.config, weights))
            stack.callback(found[-1].close)
        merged = Merged(checkpoint, found)
        tensors = write.tensors_of(merged, dtype)
        out.mkdir()
        if files.path.is_dir():
            save.copy_companions(files.path, out)
        save.write_json(out / "config.json", write.config_of(merged, tensors))
        write.write_folder(tensors, out, lambda _: None, shard)
        return [each for adapter in found for each in adapter.passed]


def files_of(path: Path) -> ModelFiles:
    """A model's, of a folder or a GGUF file."""
    return ModelFiles(path, "folder" if path.is_dir() else "gguf", path.name, str(path))

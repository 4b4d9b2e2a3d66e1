"""A trained model as a folder of its own: configuration, tokenizer, template and weights.

Matrices are written in the type that they were sampled in, vectors as float32, and `config.json` says
float32: so whoever reads the folder has the numbers that answered here.
"""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sampan.core.types import ModelFiles
from sampan.text.export import export_gguf
from sampan.train.full import TYPES, FullWeights
from sampan.weights import purpose, save
from sampan.weights.checkpoint import Checkpoint, open_checkpoint
from sampan.weights.naming import weights_of
from sampan.weights.safetensors import read_json


def export_model(place: Path, files: ModelFiles, trained: FullWeights) -> Path:
    """Write the folder, whole or not at all, over one that an earlier end of the run left there."""
    shutil.rmtree(place, ignore_errors=True)
    with open_checkpoint(files) as checkpoint, save.staged(place.absolute()) as folder:
        _companions(checkpoint, folder)
        purpose.write(checkpoint.purpose, folder)
        save_file(_tensors(checkpoint, trained), folder / "model.safetensors", {"format": "pt"})
    return place


def _companions(checkpoint: Checkpoint, folder: Path) -> None:
    if checkpoint.path.is_dir():
        save.copy_companions(checkpoint.path, folder)
        config = dict(read_json(checkpoint.path / "config.json"))
    else:
        ids = export_gguf(checkpoint.metadata, folder)
        config = save.hf_config(checkpoint) | ids
    for name in ("quantization_config", "torch_dtype"):
        config.pop(name, None)
    tied = {"tie_word_embeddings": checkpoint.config.tied_head}
    save.write_json(folder / "config.json", config | tied | {"dtype": "float32"})


def _tensors(checkpoint: Checkpoint, trained: FullWeights) -> dict[str, Tensor]:
    """Every tensor of the model, those that were not trained as the engine had them."""
    found = {}
    for name in weights_of(checkpoint.config, checkpoint.purpose):
        master = trained.masters.get(name)
        values = torch.from_numpy(checkpoint.array(name)) if master is None else master.detach()
        found[name] = values.to(TYPES[trained.dtype]) if values.dim() > 1 else values
        checkpoint.release(name)
    return {name: values.contiguous() for name, values in found.items()}

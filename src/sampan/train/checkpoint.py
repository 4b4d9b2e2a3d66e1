"""A training run on disk: what it takes to go on after any kill, and the adapter for others to load.

A checkpoint is one file, written beside its place, made to survive a power cut and renamed: it is whole
or it is the one before. Everything random in a run is drawn from its seed and the step's number, so that
these and the numbers of what is trained and of its optimizer are all there is to keep.
"""

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sampan.core.errors import SampanError, UsageError, shortened
from sampan.core.rows import write_text
from sampan.train.faults import no_room
from sampan.train.lora import TrainedAdapter
from sampan.train.trained import Trained

_FILE = "checkpoint.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_INSTEAD = "bring back a copy, or begin anew in another folder"


Done = tuple[int, int]
"""Stages that are done, and steps of the one that is not."""


def save(folder: Path, done: Done, told: str, trained: Trained, optimizer: torch.optim.Optimizer) -> None:
    """`told`: what the run is, which a later one must be too."""
    tensors = trained.named
    for name, tensor in list(tensors.items()):
        state = optimizer.state.get(tensor)
        if state:
            tensors |= {f"{name}/{moment}": state[moment] for moment in _MOMENTS}
            updates = int(state["step"])
    counted = str(updates if optimizer.state else 0)
    known = {"done": json.dumps(done), "updates": counted, "run": told}
    _write(folder / _FILE, tensors, {**known, "digest": _digest(tensors, known)})


def load(folder: Path, told: str, trained: Trained, optimizer: torch.optim.Optimizer | None) -> Done:
    """Put the numbers back; returns what is done, nothing where there is no checkpoint. Raises what `read`
    does."""
    found = read(folder, told)
    if found is None:
        return 0, 0
    known, tensors = found
    named = trained.named
    with torch.no_grad():
        for name, tensor in named.items():
            tensor.copy_(tensors[name])
            if optimizer is not None and f"{name}/{_MOMENTS[0]}" in tensors:
                moments = {moment: tensors[f"{name}/{moment}"] for moment in _MOMENTS}
                optimizer.state[tensor] = {"step": torch.tensor(float(known["updates"])), **moments}
    stage, step = json.loads(known["done"])
    return stage, step


def read(folder: Path, told: str) -> tuple[Mapping[str, str], Mapping[str, Tensor]] | None:
    """What a checkpoint says, and its numbers; None where there is none. Raises `UsageError` for one of
    another run, and `SampanError` for one that is not what was written."""
    path = folder / _FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            known: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise SampanError(f"{shortened(path)}: cannot be read: {error}: {_INSTEAD}") from error
    digest = known.pop("digest", "")
    if digest != _digest(tensors, known):
        raise SampanError(f"{shortened(path)}: is not what was written: {_INSTEAD}")
    if known.get("run") != told:
        raise UsageError(
            f"{shortened(folder)}: holds another run: take another folder, or its recipe, seed and data"
        )
    return known, tensors


def export(folder: Path, adapter: TrainedAdapter, base: str, alpha: float) -> None:
    """The adapter as PEFT writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    modules = sorted({part.weight.name.split(".")[-2] for part in adapter.parts})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": modules,
        "bias": "none",
        "fan_in_fan_out": False,
    }
    tensors = {f"base_model.model.{name}": tensor for name, tensor in adapter.named.items()}
    _write(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    write_text(folder / "adapter_config.json", json.dumps(config, indent=2) + "\n")


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    beside = path.with_suffix(".part")
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, beside, metadata)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, SafetensorError) as error:
        beside.unlink(missing_ok=True)
        raise no_room(path, error) from error


def _digest(tensors: Mapping[str, Tensor], known: Mapping[str, str]) -> str:
    """Of all that a checkpoint says."""
    whole = sha256(json.dumps(known, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.detach().reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()

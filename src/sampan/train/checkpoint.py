"""A training run on disk: what it takes to go on after any kill, and the adapter for others to load.

A checkpoint is one file, written beside its place, made to survive a power cut and renamed: it is whole
or it is the one before. Everything random in a run is drawn from its seed and the step's number, so that
these and the numbers of the adapter and its optimizer are all there is to keep.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sampan.core.errors import SampanError, UsageError, shortened
from sampan.train.lora import TrainedAdapter

_FILE = "checkpoint.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")


Done = tuple[int, int]
"""Stages that are done, and steps of the one that is not."""


def save(
    folder: Path, done: Done, told: str, adapter: TrainedAdapter, optimizer: torch.optim.Optimizer
) -> None:
    """`told`: what the run is, which a later one must be too."""
    tensors = _named(adapter)
    for name, tensor in list(tensors.items()):
        state = optimizer.state.get(tensor)
        if state:
            tensors |= {f"{name}/{moment}": state[moment] for moment in _MOMENTS}
            updates = int(state["step"])
    counted = str(updates if optimizer.state else 0)
    _write(folder / _FILE, tensors, {"done": json.dumps(done), "updates": counted, "run": told})


def load(folder: Path, told: str, adapter: TrainedAdapter, optimizer: torch.optim.Optimizer | None) -> Done:
    """Put the numbers back; returns what is done, nothing where there is no checkpoint. Raises `UsageError`
    for one of another run."""
    path = folder / _FILE
    if not path.exists():
        return 0, 0
    try:
        with safe_open(path, "pt") as file:
            known: Mapping[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise SampanError(f"{shortened(path)}: cannot be read: {error}") from error
    if known.get("run") != told:
        raise UsageError(
            f"{shortened(folder)}: holds another run: take another folder, or its recipe and seed"
        )
    named = _named(adapter)
    with torch.no_grad():
        for name, tensor in named.items():
            tensor.copy_(tensors[name])
            if optimizer is not None and f"{name}/{_MOMENTS[0]}" in tensors:
                moments = {moment: tensors[f"{name}/{moment}"] for moment in _MOMENTS}
                optimizer.state[tensor] = {"step": torch.tensor(float(known["updates"])), **moments}
    stage, step = json.loads(known["done"])
    return stage, step


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
    tensors = {f"base_model.model.{name}": tensor for name, tensor in _named(adapter).items()}
    _write(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    place = folder / "adapter_config.json"
    place.with_suffix(".part").write_text(json.dumps(config, indent=2) + "\n")
    place.with_suffix(".part").replace(place)


def _named(adapter: TrainedAdapter) -> dict[str, Tensor]:
    """By PEFT's names within the model."""
    found: dict[str, Tensor] = {}
    for part in adapter.parts:
        module = part.weight.name.removesuffix(".weight")
        found[f"{module}.lora_A.weight"] = part.matrix_a
        found[f"{module}.lora_B.weight"] = part.matrix_b
    return found


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    beside = path.with_suffix(".part")
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, beside, metadata)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise SampanError(f"{shortened(path)}: cannot be written: {error.strerror or error}") from error

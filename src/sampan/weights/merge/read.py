"""Adapters for merging, from a folder that PEFT wrote or a GGUF file."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sampan.core.errors import UnsupportedModel, WeightsError, shortened
from sampan.kernels.ops import Weight
from sampan.models.config import ModelConfig
from sampan.weights.files import is_there
from sampan.weights.folder import EMBED, HEAD
from sampan.weights.lora_config import Scales
from sampan.weights.lora_gguf import read_lora_gguf
from sampan.weights.merge.adapter import Adapter
from sampan.weights.merge.changes import Added, linear
from sampan.weights.merge.peft import Reader
from sampan.weights.safetensors import read_safetensors

_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"


def read(path: Path, scale: float, config: ModelConfig, weights: Mapping[str, Weight]) -> Adapter:
    """An adapter for merging `scale` times. `weights`: the model's tensors by name. Raises `WeightsError` for
    what is damaged or does not fit, `UnsupportedModel` for what cannot be merged, or not in part."""
    hidden = weights[EMBED].shape
    weights = {HEAD: Weight(HEAD, hidden), **weights}
    if path.suffix == ".gguf":
        return _of_gguf(path, scale, config, weights)
    if not is_there(path / _TENSORS):
        raise WeightsError(
            f"{shortened(path)}: has no {_TENSORS}: give a folder that PEFT's save_pretrained wrote"
        )
    scales = Scales.read(path / _CONFIG, merging=True)
    found = read_safetensors(path / _TENSORS)
    adapter = Adapter(str(path), [found.file], scale, config=scales.fields.values)
    try:
        Reader(adapter, scales, weights, config.tied_head, found.file).take(found.tensors)
        _check_scale(adapter)
    except BaseException:
        adapter.close()
        raise
    return adapter


def _of_gguf(path: Path, scale: float, config: ModelConfig, weights: Mapping[str, Weight]) -> Adapter:
    lora = read_lora_gguf(path, config, weights, merging=True)
    adapter = Adapter(str(path), [lora.file], scale, ranks={part.rank for part in lora.parts})
    for part in lora.parts:
        scaled = replace(part, scale=part.scale * scale)
        adapter.parts[part.weight.name].append(Added(linear(scaled)))
    adapter.passed += lora.passed
    return adapter


def _check_scale(adapter: Adapter) -> None:
    if adapter.scale != 1 and not adapter.additive:
        raise UnsupportedModel(
            f"{adapter.where}: is no sum of products alone (DoRA, whole tensors, tokens, PiSSA or OLoRA), of "
            f"which there is no part: merge it without :{adapter.scale:g}"
        )

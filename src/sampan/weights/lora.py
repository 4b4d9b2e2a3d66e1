"""LoRA adapters (arXiv:2106.09685) as PEFT writes them: `adapter_config.json`, `adapter_model.safetensors`.

An adapter that reads is whole: every tensor belongs to a linear of the model's layers, has its sizes and its
partner, and its configuration (`lora_config.py`) asks for nothing but y + scale * B (A x). Fused modules
(`qkv_proj`, `gate_up_proj`), and those that keep several things of each head, are taken apart.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import UnsupportedModel, WeightsError, quoted, shortened
from sampan.kernels.formats import TensorType, dequantise
from sampan.kernels.ops import Weight
from sampan.weights.files import MappedFile, TensorInfo, is_there
from sampan.weights.lora_config import Scales
from sampan.weights.safetensors import read_safetensors

Floats = NDArray[np.float32]

_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"
_NAME = re.compile(
    r"base_model\.model\.(model\.layers\.\d+\.(?:self_attn|linear_attn|mlp|block_sparse_moe)(?:\.\w+){1,3})"
    r"\.lora_([AB])(?:\.default)?\.weight"
)
_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
# What a module keeps of each head, one head behind the other, where the model has these apart.
_BY_HEAD = {"q_proj": ("q", "gate"), "in_proj_qkvz": ("q", "k", "v", "z")}


@dataclass(frozen=True, eq=False)
class LowRank:
    """What an adapter adds to one weight: scale * B A, A [rank, inputs] and the rows of B from `first` on."""

    weight: Weight
    file: MappedFile
    tensor_a: TensorInfo
    tensor_b: TensorInfo
    first: int
    scale: float

    @property
    def rank(self) -> int:
        """Inner size of the product."""
        return self.tensor_a.shape[0]

    @property
    def key(self) -> str:
        """Of A, which parts of one fused module share."""
        return self.tensor_a.name

    def a(self) -> Floats:
        """[rank, inputs]."""
        return self._values(self.tensor_a)

    def b(self) -> Floats:
        """Its rows, times the scale: [outputs, rank]."""
        rows = self.weight.shape[0]
        with np.errstate(over="ignore"):
            values: Floats = self._values(self.tensor_b)[self.first : self.first + rows]
            values = values * np.float32(self.scale)
        if not np.isfinite(values).all():
            raise _wrong(self.tensor_b, f"times the scale {self.scale:g} is not finite")
        return values

    def _values(self, info: TensorInfo) -> Floats:
        values = dequantise(self.file.view(info.offset, info.nbytes), info.type, info.shape)
        if not np.isfinite(values).all():
            raise _wrong(info, "holds values that are not finite numbers: the file is damaged")
        return values


@dataclass(frozen=True, eq=False)
class Lora:
    """An adapter on disk, mapped and checked against a model. Close it once a backend has taken it."""

    path: Path
    file: MappedFile
    parts: tuple[LowRank, ...]

    @property
    def where(self) -> str:
        """The folder."""
        return str(self.path)

    @property
    def rank(self) -> int:
        """The largest of its parts'."""
        return max(part.rank for part in self.parts)

    @property
    def halves(self) -> bool:
        """Its numbers are float16."""
        return all(part.tensor_a.type is part.tensor_b.type is TensorType.F16 for part in self.parts)

    def close(self) -> None:
        """Unmap the file."""
        self.file.close()


def read_lora(folder: Path, weights: Mapping[str, Weight]) -> Lora:
    """Map an adapter and check it whole against the model's weights; its values are read when it is packed.

    Raises `WeightsError` for what is damaged or contradicts itself or the model, `UnsupportedModel` for what
    would be an adapter of another kind.
    """
    scales = Scales.read(folder / _CONFIG)
    if not is_there(folder / _TENSORS):
        other = (
            "adapter_model.bin cannot be read safely: save it"
            if is_there(folder / "adapter_model.bin")
            else "save it"
        )
        raise WeightsError(f"{shortened(folder)}: has no {_TENSORS}: {other} with PEFT's save_pretrained")
    found = read_safetensors(folder / _TENSORS)
    try:
        modules = _modules(found.tensors.values())
        scales.check_targets(modules, _TENSORS)
        parts = tuple(
            part for name in modules for part in _parts(name, modules[name], found.file, weights, scales)
        )
    except BaseException:
        found.file.close()
        raise
    return Lora(folder, found.file, parts)


class _Pair(NamedTuple):
    a: TensorInfo
    b: TensorInfo


def _modules(tensors: Iterable[TensorInfo]) -> dict[str, _Pair]:
    """Both tensors of every module."""
    sides: dict[str, dict[str, TensorInfo]] = {}
    for info in tensors:
        found = _NAME.fullmatch(info.name)
        if found is None:
            raise UnsupportedModel(f"{info.file}: tensor {quoted(info.name)} {_why_not(info.name)}")
        module, side = found.groups()
        if side in sides.setdefault(module, {}):
            raise _wrong(info, f"is the second lora_{side} of {quoted(module)}")
        sides[module][side] = info
    for module, pair in sides.items():
        if len(pair) != 2:
            (info,) = pair.values()
            raise _wrong(info, f"has no partner: {quoted(module)} needs lora_A and lora_B")
    if not sides:
        raise WeightsError("an adapter without any tensor adapts nothing")
    return {module: _Pair(pair["A"], pair["B"]) for module, pair in sides.items()}


def _why_not(name: str) -> str:
    if "lora_magnitude_vector" in name:
        return "belongs to DoRA, which is not supported"
    if "embed" in name or "lm_head" in name:
        return "adapts an embedding or the head: only the linears of the layers can be adapted"
    return "is no lora_A or lora_B of a layer's linear"


def _parts(
    module: str, pair: _Pair, file: MappedFile, weights: Mapping[str, Weight], scales: Scales
) -> Iterator[LowRank]:
    """The weights that a module adapts, once its sizes fit them."""
    names = _named(module, weights)
    one = f"{module}.weight" in weights or len(names) > 1
    if not one and any(name.startswith(f"{module}.") for name in weights):
        raise UnsupportedModel(f"{pair.a.file}: adapts {quoted(module)}, which is many matrices here")
    adapted = [weights.get(f"{name}.weight") for name in names]
    found = [weight for weight in adapted if weight is not None and len(weight.shape) == 2]
    if len(found) != len(adapted):
        raise _wrong(pair.a, f"has no place: the model has no linear {quoted(module)}")
    if any(weight.exact for weight in found):
        raise UnsupportedModel(f"{pair.a.file}: adapts {quoted(module)}: a router's choices stay as they are")
    rank, scale = scales.of(module)
    outputs, inputs = sum(weight.shape[0] for weight in found), found[0].shape[1]
    for info, shape in ((pair.a, (rank, inputs)), (pair.b, (outputs, rank))):
        if info.shape != shape:
            raise _wrong(info, f"has shape {list(info.shape)}, the model and {_CONFIG} say {list(shape)}")
    first = 0
    for weight in found:
        yield LowRank(weight, file, pair.a, pair.b, first, scale)
        first += weight.shape[0]


def _named(module: str, weights: Mapping[str, Weight]) -> list[str]:
    """What the model calls a module's rows, in their order."""
    parent, _, last = module.rpartition(".")
    kinds = _BY_HEAD.get(last, ("",))
    heads = list(takewhile(lambda head: f"{module}.{kinds[0]}.{head}.weight" in weights, count()))
    if heads:
        return [f"{module}.{kind}.{head}" for head in heads for kind in kinds]
    return [f"{parent}.{name}" for name in _FUSED.get(last, (last,))]


def _wrong(info: TensorInfo, problem: str) -> WeightsError:
    return WeightsError(f"{info.file}: tensor {quoted(info.name)} at byte {info.offset} {problem}")

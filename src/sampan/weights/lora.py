"""LoRA adapters (arXiv:2106.09685) as PEFT writes them: `adapter_config.json`, `adapter_model.safetensors`.

An adapter that reads is whole: every tensor has its sizes and its partner, and its configuration
(`lora_config.py`) asks for nothing but y + scale * B (A x). What PEFT would pass over is passed over too, and
told: modules that the model lacks, or that the configuration does not name. Fused modules (`qkv_proj`,
`gate_up_proj`), and those that keep several things of each head, are taken apart.
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
from sampan.weights.lora_config import MERGE, Scales
from sampan.weights.naming import listed
from sampan.weights.safetensors import read_safetensors

Floats = NDArray[np.float32]

_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"
_BASE, _LAYERS = "base_model.model.", "model.layers."
_ENDS = ("lm_head", "embed_tokens")  # a head may be tied, and not be among the weights
_NAME = re.compile(rf"{re.escape(_BASE)}([\w.]+)\.lora_([AB])(?:\.default)?\.weight")
_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
# What a module keeps of each head, one head behind the other, where the model has these apart.
_BY_HEAD = {"q_proj": ("q", "gate"), "in_proj_qkvz": ("q", "k", "v", "z"), "kv_b_proj": ("k", "v")}
# Why a tensor is none of a layer's linear, by what its name has.
_WHY = {
    "lora_magnitude_vector": "belongs to DoRA, which scales the rows of the base weights themselves",
    "lora_B.bias": "is a bias of the adapter's own products",
    ".bias": "is a bias of the base model in another form",
    "embed": "adapts the embedding, or stands in its place",
    "lm_head": "adapts the head, or stands in its place",
    "norm": "stands in the place of a norm",
}


@dataclass(frozen=True, eq=False)
class LowRank:
    """What an adapter adds to one weight: scale * B A, A [rank, inputs] and the rows of B from `first` on.
    `order`: where these lie in B, if not in order. `a_turned`, `b_turned`: the file has [inputs, rank], and
    [rank, outputs]."""

    weight: Weight
    file: MappedFile
    tensor_a: TensorInfo
    tensor_b: TensorInfo
    first: int
    scale: float
    order: NDArray[np.intp] | None = None
    a_turned: bool = False
    b_turned: bool = False

    @property
    def rank(self) -> int:
        """Inner size of the product."""
        return self.tensor_a.shape[-1 if self.a_turned else 0]

    @property
    def key(self) -> str:
        """Of A, which parts of one fused module share."""
        return self.tensor_a.name

    def a(self) -> Floats:
        """[rank, inputs]."""
        values = values_of(self.file, self.tensor_a)
        return np.ascontiguousarray(values.T) if self.a_turned else values

    def b(self) -> Floats:
        """Its rows, times the scale: [outputs, rank]."""
        rows = self.weight.shape[0]
        with np.errstate(over="ignore"):
            whole = values_of(self.file, self.tensor_b)
            values: Floats = (whole.T if self.b_turned else whole)[self.first : self.first + rows]
            values = (values if self.order is None else values[self.order]) * np.float32(self.scale)
        if not np.isfinite(values).all():
            raise wrong(self.tensor_b, f"times the scale {self.scale:g} is not finite")
        return values


@dataclass(frozen=True, eq=False)
class Lora:
    """An adapter on disk, mapped and checked against a model. Close it once a backend has taken it.

    `passed`: what of it was passed over, for whoever loads it."""

    path: Path
    file: MappedFile
    parts: tuple[LowRank, ...]
    passed: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The folder, or the file."""
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
        modules, passed = _kept(_modules(found.tensors.values()), weights, scales)
        parts: list[LowRank] = []
        for name, pair in modules.items():
            rank, scale = scales.of(name)
            parts += low_ranks(name, pair, found.file, weights, rank, scale)
    except BaseException:
        found.file.close()
        raise
    return Lora(folder, found.file, tuple(parts), passed)


def _kept(
    modules: dict[str, "Pair"], weights: Mapping[str, Weight], scales: Scales
) -> tuple[dict[str, "Pair"], tuple[str, ...]]:
    """What PEFT would give the model, and what it would pass over."""
    unnamed = [name for name in modules if not scales.adapts(name)]
    lacking = [name for name in modules if name not in unnamed and not exists(name, weights)]
    kept = {name: pair for name, pair in modules.items() if name not in unnamed and name not in lacking}
    if not kept:
        names = listed([quoted(name) for name in lacking or unnamed])
        said = f"the model has no linear {names}" if lacking else f"target_modules does not name {names}"
        raise WeightsError(f"{scales.fields.source}: nothing of the adapter would be used: {said}")
    told = {
        "tensors of modules that its configuration does not name": unnamed,
        "modules that this model lacks": lacking,
        "targets without tensors": scales.without(list(modules)),
    }
    return kept, tuple(
        f"{what}: {listed([quoted(name) for name in names])}" for what, names in told.items() if names
    )


class Pair(NamedTuple):
    """Both tensors of a module: A [rank, inputs], B [outputs, rank]."""

    a: TensorInfo
    b: TensorInfo


def _modules(tensors: Iterable[TensorInfo]) -> dict[str, Pair]:
    """Both tensors of every module."""
    sides: dict[str, dict[str, TensorInfo]] = {}
    for info in tensors:
        found = _NAME.fullmatch(info.name)
        if found is None:
            why = next((said for part, said in _WHY.items() if part in info.name), "is no LoRA of a linear")
            raise UnsupportedModel(f"{info.file}: tensor {quoted(info.name)} {why}: {MERGE}")
        module, side = found.groups()
        if side in sides.setdefault(module, {}):
            raise wrong(info, f"is the second lora_{side} of {quoted(module)}")
        sides[module][side] = info
    for module, pair in sides.items():
        if len(pair) != 2:
            (info,) = pair.values()
            raise wrong(info, f"has no partner: {quoted(module)} needs lora_A and lora_B")
    if not sides:
        raise WeightsError("an adapter without any tensor adapts nothing")
    return {module: Pair(pair["A"], pair["B"]) for module, pair in sides.items()}


def low_ranks(
    module: str, pair: Pair, file: MappedFile, weights: Mapping[str, Weight], rank: int, scale: float,
    order: NDArray[np.intp] | None = None, *, merging: bool = False,
) -> Iterator[LowRank]:  # fmt: skip
    """The weights that a module adapts, once its sizes fit them. `order`: of the rows of B. `merging`: any
    matrix will do, since nothing is added while the model runs."""
    found = adapted(module, pair.a, weights) if merging else _runnable(module, pair, weights)
    outputs, inputs = sum(weight.shape[0] for weight in found), found[0].shape[1]
    for info, shape in ((pair.a, (rank, inputs)), (pair.b, (outputs, rank))):
        if info.shape != shape:
            said = f"has shape {list(info.shape)}, the model and the adapter's rank say {list(shape)}"
            raise wrong(info, said)
    first = 0
    for weight in found:
        yield LowRank(weight, file, pair.a, pair.b, first, scale, order)
        first += weight.shape[0]


def adapted(module: str, info: TensorInfo, weights: Mapping[str, Weight]) -> list[Weight]:
    """The weights that a module's rows are, in their order; `info`: of the adapter, for an error."""
    if not exists(module, weights):
        raise wrong(info, f"has no place: the model has no linear {quoted(module)}")
    names = _named(module, weights)
    found = [weights[f"{name}.weight"] for name in names if f"{name}.weight" in weights]
    if len(found) != len(names):
        raise UnsupportedModel(
            f"{info.file}: adapts {quoted(module)}, which is many matrices here, one or two for each head "
            f"or expert: {MERGE}"
        )
    return found


def _runnable(module: str, pair: Pair, weights: Mapping[str, Weight]) -> list[Weight]:
    """The same, where the engine can add to them while it runs."""
    if exists(module, weights) and (not module.startswith(_LAYERS) or module.endswith(_ENDS)):
        raise UnsupportedModel(f"{pair.a.file}: adapts {quoted(module)}, which is no layer's linear: {MERGE}")
    found = adapted(module, pair.a, weights)
    if any(weight.exact for weight in found):
        raise UnsupportedModel(
            f"{pair.a.file}: adapts {quoted(module)}: a router's choices stay as they are: {MERGE}"
        )
    return found


def exists(module: str, weights: Mapping[str, Weight]) -> bool:
    """Whether the model has this linear, by this name or in parts."""
    found = [weights.get(f"{name}.weight") for name in _named(module, weights)]
    if all(weight is not None for weight in found):
        return all(weight is not None and len(weight.shape) == 2 for weight in found)
    return module.endswith(_ENDS) or any(name.startswith(f"{module}.") for name in weights)


def _named(module: str, weights: Mapping[str, Weight]) -> list[str]:
    """What the model calls a module's rows, in their order."""
    parent, _, last = module.rpartition(".")
    kinds = _BY_HEAD.get(last, ("",))
    heads = list(takewhile(lambda head: f"{module}.{kinds[0]}.{head}.weight" in weights, count()))
    if heads:
        return [f"{module}.{kind}.{head}" for head in heads for kind in kinds]
    return [f"{parent}.{name}" if parent else name for name in _FUSED.get(last, (last,))]


def values_of(file: MappedFile, info: TensorInfo) -> Floats:
    """A tensor of an adapter's file, as float32."""
    values = dequantise(file.view(info.offset, info.nbytes), info.type, info.shape)
    if not np.isfinite(values).all():
        raise wrong(info, "holds values that are not finite numbers: the file is damaged")
    return values


def wrong(info: TensorInfo, problem: str) -> WeightsError:
    """The error of one tensor; the caller raises it."""
    return WeightsError(f"{info.file}: tensor {quoted(info.name)} at byte {info.offset} {problem}")

"""A model with adapters merged into it, tensor by tensor: what is written of it, wherever it came from.

Tensors have the names under which models of the family are published, and come in rows, so that no more of
the model is in memory than a part of one tensor. A head that was tied and is not the embedding any more is a
tensor of its own; a bias that the model had not is one where the family can have it.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from sampan.core.errors import UnsupportedModel, quoted
from sampan.kernels.formats import TensorType
from sampan.kernels.ops import Weight
from sampan.models import registry
from sampan.models.config import ModelConfig
from sampan.models.family import Family
from sampan.models.registry import describe
from sampan.weights.checkpoint import Checkpoint
from sampan.weights.folder import EMBED, HEAD
from sampan.weights.merge.adapter import Adapter
from sampan.weights.merge.changes import Change, Rows, Shape, changed
from sampan.weights.naming import listed
from sampan.weights.safetensors import read_json
from sampan.weights.save import hf_config

_OF_HEAD = re.compile(r"(.+)\.(?:q|k|v|z|gate)\.\d+\.weight")
_BIASES: tuple[dict[str, object], ...] = (
    {"attention_bias": True},
    {"mlp_bias": True},
    {"attention_bias": True, "mlp_bias": True},
)
_VALUES = 2**22  # read together


@dataclass(frozen=True)
class Tensor:
    """One that is written: `parts` are the model's, one behind another. `type`: as the model has it."""

    name: str
    shape: Shape
    parts: tuple[str, ...]
    type: TensorType


class Merged:
    """The model of a checkpoint with adapters, all of which must stay open. `fields`: its `config.json`;
    `config`: what is read of that; `tensors`: by name."""

    def __init__(self, checkpoint: Checkpoint, adapters: Sequence[Adapter] = ()) -> None:
        self.checkpoint, self.adapters = checkpoint, tuple(adapters)
        self._changes: dict[str, list[Change]] = defaultdict(list)
        for adapter in self.adapters:
            for name, changes in adapter.parts.items():
                self._changes[name] += changes
        _check_together(self.adapters)
        untied = checkpoint.config.tied_head and self._plan(HEAD) != self._plan(EMBED)
        self.fields = self._with_biases(_fields(checkpoint, untied=untied))
        self.config: ModelConfig = registry.from_hf(self.fields, checkpoint.where)
        self._weights = _weights(checkpoint, self.config)
        self.tensors: Mapping[str, Tensor] = {tensor.name: tensor for tensor in self._all()}

    @property
    def family(self) -> Family:
        """Whose model it is."""
        return registry.family_named(self.config.family, "model family")

    def blocks(self, tensor: Tensor) -> "Iterator[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]":
        """A tensor's values, some rows at a time."""
        for part in tensor.parts:
            shape = self._shape(part)
            rows, step = self._rows(part, shape), max(1, _VALUES // prod(shape[1:]))
            for start in range(0, shape[0], step):
                yield rows(start, min(start + step, shape[0]))
            self._release(part)

    def _rows(self, part: str, shape: Shape) -> Rows:
        """A part's values."""
        base = self._base(part)
        for adapter in self.adapters:
            if part in adapter.residuals:
                base = adapter.residuals[part].left_of(base, shape)
        return changed(base, shape, self._changes.get(part, ()), part)

    def _base(self, part: str) -> Rows:
        for adapter in self.adapters:
            if (found := adapter.brought.get(part) or adapter.base.get(part)) is not None:
                return found
        tensors = self.checkpoint.tensors
        name = EMBED if part == HEAD and HEAD not in tensors else part
        if name not in tensors:  # a bias that the model had not
            return lambda start, stop: np.zeros(stop - start, np.float32)
        if len(tensors[name].shape) == 2:
            return lambda start, stop: self.checkpoint.rows(name, start, stop)
        return lambda start, stop: self.checkpoint.array(name)[start:stop]

    def _plan(self, part: str) -> tuple[object, ...]:
        """What is made of a tensor: two of one value have one plan."""
        places = [place.get(part) for a in self.adapters for place in (a.brought, a.base)]
        return (*self._changes.get(part, ()), *places)

    def _shape(self, part: str) -> Shape:
        if part in self.checkpoint.tensors:
            return self.checkpoint.tensors[part].shape
        return self._weights[part].shape

    def _release(self, part: str) -> None:
        if part in self.checkpoint.tensors:
            self.checkpoint.release(part)

    def _with_biases(self, fields: dict[str, object]) -> dict[str, object]:
        """The configuration with biases where an adapter brings some."""
        tensors = self.checkpoint.tensors
        new = {name for name in self._changes if name.endswith(".bias") and name not in tensors}
        if not new:
            return fields
        for flags in _BIASES:
            weights = describe(registry.from_hf(fields | flags, self.checkpoint.where)).weights()
            if new <= weights.keys():
                return fields | flags
        raise UnsupportedModel(
            f"{self.checkpoint.where}: its family has no {listed(sorted(map(quoted, new)))}, which come with "
            "lora_bias: train the adapter without it"
        )

    def _all(self) -> Iterator[Tensor]:
        """In the order of the description; what many of the model's tensors are is one."""
        tensors = self.checkpoint.tensors
        counts = Counter(info.name for info in tensors.values())
        groups: dict[str, list[str]] = defaultdict(list)
        for name in self._weights:
            if name in tensors or name.endswith(".bias") or name == HEAD:
                found = _OF_HEAD.fullmatch(name)
                groups[f"{found[1]}.weight" if found else name].append(name)
        for name, parts in groups.items():
            parts = _in_turn(parts)
            rows = sum(self._shape(part)[0] for part in parts)
            info = tensors.get(parts[0], tensors.get(EMBED))
            type = TensorType.F32 if info is None else info.type
            shape = (rows, *self._shape(parts[0])[1:])
            if name.endswith("conv1d.weight") and len(shape) == 2:
                shape = (rows, 1, shape[1])  # as it is published
            own = info.name if info and name == parts[0] and counts[info.name] == 1 else name
            draft = own.removeprefix("model.").startswith("mtp.") and self.checkpoint.path.is_dir()
            yield Tensor(
                own if draft else name, shape, tuple(parts), TensorType.BF16 if type.quantised else type
            )


def _in_turn(parts: list[str]) -> list[str]:
    """Heads' matrices as a published tensor has them: all of a head, then those of the next."""
    if len(parts) == 1:
        return parts
    return sorted(parts, key=lambda name: int(name.rsplit(".", 2)[1]))  # stable: kinds stay in order


def _fields(checkpoint: Checkpoint, *, untied: bool) -> dict[str, object]:
    """Of the `config.json`, for weights that are not quantised."""
    folder = checkpoint.path.is_dir()
    fields = read_json(checkpoint.path / "config.json") if folder else hf_config(checkpoint)
    fields.pop("quantization_config", None)
    stored = checkpoint.config.tied_head is False and fields.get("tie_word_embeddings") is True
    if untied or stored:
        fields["tie_word_embeddings"] = False
        if isinstance(text := fields.get("text_config"), dict):
            fields["text_config"] = text | {"tie_word_embeddings": False}
    return fields


def _weights(checkpoint: Checkpoint, config: ModelConfig) -> Mapping[str, Weight]:
    """What the model's tensors are, with those of a layer for drafts where it has one."""
    model = describe(config)
    weights = model.weights()
    if checkpoint.drafts and (draft := model.draft()):
        weights = weights | draft.weights()
    return weights


def _check_together(adapters: Sequence[Adapter]) -> None:
    """Refuse adapters of which one undoes what another does."""
    for one in adapters:
        if one.residuals and len(adapters) > 1:
            raise UnsupportedModel(
                f"{one.where}: begins with another base model (PiSSA, OLoRA): merge it alone, and the others "
                "into what comes of it"
            )
        for other in adapters:
            whole = {*one.brought, *one.base}
            both = whole & ({*other.parts, *other.brought, *other.base}) if other is not one else set()
            if both:
                names = listed(sorted(map(quoted, both)))
                raise UnsupportedModel(
                    f"{one.where}: brings {names} whole, which {other.where} changes too: merge one of them"
                )
        if both := one.brought.keys() & one.parts.keys():
            raise UnsupportedModel(f"{one.where}: brings {listed(sorted(both))} whole, and changes it")

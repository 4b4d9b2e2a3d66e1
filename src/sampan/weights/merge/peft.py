"""Adapters of PEFT for merging: each of a folder's tensors as a change of the model's, whatever its kind.

What the engine adds while it runs (`weights/lora.py`) is taken as it is there. Beside it: DoRA, biases, whole
modules, the head and the embedding, single tokens, experts that are one parameter, and PiSSA and OLoRA, whose
residual is found again. A tensor that has no place in the model is refused by name, unless PEFT passes it
over too, which is told.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from sampan.core.errors import UnsupportedModel, WeightsError, quoted
from sampan.kernels.ops import Weight
from sampan.weights.files import MappedFile, TensorInfo
from sampan.weights.folder import EMBED, HEAD
from sampan.weights.lora import Pair, adapted, exists, low_ranks, values_of, wrong
from sampan.weights.lora_config import Scales
from sampan.weights.merge.adapter import Adapter
from sampan.weights.merge.changes import (
    Added,
    Brought,
    Change,
    Directed,
    Factors,
    Residual,
    Shifted,
    Tokens,
    embedded,
    linear,
)
from sampan.weights.merge.experts import changes_of, experts_of, is_stack, unwrapped
from sampan.weights.naming import listed

_NAME = re.compile(
    r"base_model\.model\.(?P<module>[\w.]+?)"
    r"\.(?:(?P<kind>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector"
    r"|token_adapter\.trainable_tokens_delta)(?:\.default)?(?:\.(?P<of>weight|bias))?"
    r"|(?:modules_to_save\.(?:default\.)?)?(?P<whole>weight|\w*bias|A_log))"
)
_LAYER = ".base_layer"


class Reader:
    """Takes a folder's tensors, module by module."""

    def __init__(
        self, adapter: Adapter, scales: Scales, weights: Mapping[str, Weight], tied: bool, file: MappedFile
    ) -> None:
        self.adapter, self.scales, self.weights = adapter, scales, weights
        self.tied, self.file = tied, file

    def take(self, tensors: Mapping[str, TensorInfo]) -> None:
        """All of them."""
        modules: dict[str, dict[str, TensorInfo]] = defaultdict(dict)
        for info in tensors.values():
            found = _NAME.fullmatch(info.name)
            if found is None or ".lora_" in found["module"]:
                raise UnsupportedModel(
                    f"{info.file}: tensor {quoted(info.name)} is of no kind that can be merged"
                )
            kind = found["kind"] or f"whole.{found['whole']}"
            kind += ".bias" if found["of"] == "bias" else ""
            if kind in modules[self._own(found["module"])]:
                raise wrong(info, f"is the second {kind} of {quoted(found['module'])}")
            modules[self._own(found["module"])][kind] = info
        if not modules:
            raise WeightsError(f"{self.adapter.where}: an adapter without any tensor adapts nothing")
        self._stacks({module: own for module, own in modules.items() if is_stack(module)})
        for module, own in modules.items():
            if not is_stack(module):
                self._module(module, own)
        self._told(modules)
        if not (self.adapter.parts or self.adapter.base or self.adapter.brought):
            raise WeightsError(
                f"{self.adapter.where}: nothing of it would be used: the model lacks its modules"
            )

    def _own(self, module: str) -> str:
        """What the model calls it: Mixtral's layers were renamed in transformers 5."""
        old = ".block_sparse_moe."
        if ".mlp." in module and any(old in name for name in self.weights):
            return module.replace(".mlp.", old)
        return module

    def _told(self, modules: Mapping[str, Any]) -> None:
        missing = self.scales.without([module.removesuffix(_LAYER) for module in modules])
        missing = [name for name in missing if not self.scales.parameters]
        if missing:
            names = listed([quoted(name) for name in missing])
            self.adapter.passed.append(f"targets without tensors: {names}")

    def _pass(self, what: str, module: str) -> None:
        self.adapter.passed.append(f"{what}: {quoted(module)}")

    def _module(self, module: str, own: dict[str, TensorInfo]) -> None:
        """One module's tensors."""
        whole = {
            kind.removeprefix("whole."): own.pop(kind) for kind in list(own) if kind.startswith("whole.")
        }
        for kind, info in whole.items():
            self._whole(module, kind, info)
        if module.endswith(_LAYER) or not own:
            return
        if not exists(module, self.weights) and f"{module}.weight" not in self.weights:
            self._pass("a module that this model lacks", module)
        elif "token_adapter.trainable_tokens_delta" in own:
            self._tokens(module, own["token_adapter.trainable_tokens_delta"])
        elif not (self.scales.adapts(module) or self._tied_too(module)):
            self._pass("tensors of a module that its configuration does not name", module)
        elif "lora_embedding_A" in own:
            self._embedding(module, own)
        else:
            self._linear(module, own)

    def _tied_too(self, module: str) -> bool:
        """Whether PEFT adapts the head because it is tied to the embedding."""
        return (
            self.tied
            and f"{module}.weight" == HEAD
            and bool(self.scales.fields.values.get("ensure_weight_tying"))
        )

    def _pair(self, module: str, own: dict[str, TensorInfo], a: str, b: str) -> Pair:
        if a not in own or b not in own:
            raise wrong(next(iter(own.values())), f"has no partner: {quoted(module)} needs {a} and {b}")
        return Pair(own[a], own[b])

    def _linear(self, module: str, own: dict[str, TensorInfo]) -> None:
        pair = self._pair(module, own, "lora_A", "lora_B")
        key = f"{module}.weight" if self.scales.adapts_parameter(f"{module}.weight") else module
        rank, scale = self.scales.of(key)
        self.adapter.ranks.add(rank)
        parts = list(low_ranks(
            module, pair, self.file, self.weights, rank, scale * self.adapter.scale, merging=True
        ))  # fmt: skip
        self._residual(module, [part.weight for part in parts], rank, scale)
        magnitude = self._magnitude(own, sum(part.weight.shape[0] for part in parts))
        for part in parts:
            factors = linear(part)
            change: Change = Added(factors)
            if magnitude is not None:
                change = Directed(factors, magnitude[part.first : part.first + part.weight.shape[0]])
            self.adapter.parts[part.weight.name].append(change)
        if "lora_B.bias" in own:
            self._shift(own["lora_B.bias"], [part.weight for part in parts], scale)

    def _residual(self, module: str, weights: list[Weight], rank: int, scale: float) -> None:
        if self.scales.residual is None:
            return
        if len(weights) != 1:
            raise UnsupportedModel(
                f"{self.adapter.where}: {self.scales.residual} of {quoted(module)}, which is many matrices "
                "here: convert it with PEFT (`path_initial_model_for_weight_conversion`)"
            )
        self.adapter.additive = False
        self.adapter.residuals[weights[0].name] = Residual(self.scales.residual, rank, scale)

    def _magnitude(self, own: dict[str, TensorInfo], size: int) -> Any:
        info = own.get("lora_magnitude_vector")
        if info is None:
            return None
        self.adapter.additive = False
        if info.shape != (size,):
            raise wrong(info, f"has shape {list(info.shape)}, the model says {[size]}")
        return values_of(self.file, info)

    def _shift(self, info: TensorInfo, weights: list[Weight], scale: float) -> None:
        """B's bias, times the scale, on the module's own."""
        rows = sum(weight.shape[0] for weight in weights)
        if info.shape != (rows,):
            raise wrong(info, f"has shape {list(info.shape)}, the model says {[rows]}")
        values, first = values_of(self.file, info) * np.float32(scale * self.adapter.scale), 0
        if len(weights) > 1 and any(weight.name.split(".")[-2].isdecimal() for weight in weights):
            raise UnsupportedModel(f"{info.file}: tensor {quoted(info.name)} is a bias of many matrices")
        for weight in weights:
            name = weight.name.removesuffix("weight") + "bias"
            self.adapter.parts[name].append(Shifted(values[first : first + weight.shape[0]]))
            first += weight.shape[0]

    def _embedding(self, module: str, own: dict[str, TensorInfo]) -> None:
        pair = self._pair(module, own, "lora_embedding_A", "lora_embedding_B")
        rank, scale = self.scales.of(module)
        self.adapter.ranks.add(rank)
        (weight,) = adapted(module, pair.a, self.weights)
        rows, columns = weight.shape
        for info, shape in ((pair.a, (rank, rows)), (pair.b, (columns, rank))):
            if info.shape != shape:
                said = f"has shape {list(info.shape)}, the model and the adapter's rank say {list(shape)}"
                raise wrong(info, said)
        factors: Factors = embedded(self.file, pair.a, pair.b, scale * self.adapter.scale)
        magnitude = self._magnitude(own, columns)
        change = Added(factors) if magnitude is None else Directed(factors, magnitude, by_column=True)
        self.adapter.parts[weight.name].append(change)

    def _tokens(self, module: str, info: TensorInfo) -> None:
        """Rows of an embedding, and of the head that is tied to it."""
        given = self.scales.fields.values.get("trainable_token_indices")
        known = given if isinstance(given, dict) else {EMBED.removesuffix(".weight"): given}
        indices = next((own for name, own in known.items() if _ends(module, str(name))), None)
        weight = self.weights[f"{module}.weight"]
        if not isinstance(indices, list) or not all(
            type(each) is int and 0 <= each < weight.shape[0] for each in indices
        ):
            problem = f"must list tokens below {weight.shape[0]} for {quoted(module)}"
            raise self.scales.fields.fail("trainable_token_indices", problem)
        if info.shape != (len(indices), weight.shape[1]):
            raise wrong(info, f"has shape {list(info.shape)}, but {len(indices)} tokens are named")
        self.adapter.additive = False
        change = Tokens(np.array(indices, np.intp), values_of(self.file, info))
        self.adapter.parts[weight.name].append(change)
        if self.tied and weight.name == EMBED and not _apart(known):
            self.adapter.parts[HEAD].append(change)

    def _whole(self, module: str, kind: str, info: TensorInfo) -> None:
        """A tensor in the place of the model's: of a module that is saved, a bias, or what was adapted."""
        own = module.removesuffix(_LAYER)
        parts = self._parts_of(own, kind, info)
        if not parts:
            self._pass("a tensor that this model lacks", f"{own}.{kind}")
            return
        self.adapter.additive = False
        brought, first = Brought(self.file, info), 0
        saved = kind != "weight" or any(own.endswith(name) for name in self._saved())
        place = self.adapter.brought if saved and own == module else self.adapter.base
        for weight in parts:
            both = place is self.adapter.base and self.tied and weight.name in (EMBED, HEAD)
            place |= dict.fromkeys((EMBED, HEAD) if both else (weight.name,), brought.part(first))
            first += weight.shape[0]

    def _parts_of(self, module: str, kind: str, info: TensorInfo) -> list[Weight]:
        """The model's tensors that it stands for, once it has their sizes."""
        name = f"{module}.{kind}"
        if name in self.weights:
            parts = [self.weights[name]]
        elif kind == "weight" and exists(module, self.weights):
            parts = adapted(module, info, self.weights)
        else:
            return []
        shape = (sum(weight.shape[0] for weight in parts), *parts[0].shape[1:])
        if info.shape != shape:
            grown = name in (EMBED, HEAD) and info.shape[1:] == shape[1:]
            hint = ": it was trained on a larger vocabulary: resize the model's with transformers first"
            raise wrong(
                info, f"has shape {list(info.shape)}, the model says {list(shape)}{hint if grown else ''}"
            )
        return parts

    def _saved(self) -> list[str]:
        given = self.scales.fields.values.get("modules_to_save") or []
        return [str(name) for name in given] if isinstance(given, list) else []

    def _stacks(self, modules: Mapping[str, dict[str, TensorInfo]]) -> None:
        """Experts that are one parameter."""
        for module, found in unwrapped(modules, self.scales.adapts_parameter):
            if not found:
                raise UnsupportedModel(
                    f"{self.adapter.where}: adapts {quoted(module)}, of which target_parameters names "
                    "nothing, or not all"
                )
            for parameter, key in found:
                rank, scale = self.scales.of(f"{module}.{parameter}")
                experts = experts_of(self.weights, module, parameter)
                if not experts:
                    self._pass("experts that this model lacks", module)
                    continue
                self.adapter.ranks.add(rank)
                pair, scale = self._pair(key, modules[key], "lora_A", "lora_B"), scale * self.adapter.scale
                for name, change in changes_of(self.file, pair, experts, rank, scale):
                    self.adapter.parts[name].append(change)


def _apart(known: Mapping[Any, Any]) -> bool:
    """Whether embedding and head have tokens of their own, which unties them."""
    values = list(known.values())
    return len(values) > 1 and any(each != values[0] for each in values[1:])


def _ends(module: str, name: str) -> bool:
    return module == name or module.endswith("." + name)

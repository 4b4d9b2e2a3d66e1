"""One view of a model's weights, whichever container holds them.

A checkpoint that opens is complete: its configuration is valid, and every tensor that the configuration asks
for is there with the right shape, and no other. Tensors go by Hugging Face's names and have its shapes, also
where one tensor of the file holds many; `row_order` tells of rows that lie in another order.
The matrices of a folder that `sampan quantize` wrote have no values to read, only panels for the kernels.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType, TracebackType

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import UnsupportedModel, WeightsError, quoted
from sampan.core.types import ModelFiles
from sampan.kernels.formats import Codes, PackedMatrix, TensorType, codes, dequantise, encode
from sampan.models import registry
from sampan.models.config import GgufModel, ModelConfig
from sampan.models.family import Family
from sampan.models.fields import Fields
from sampan.models.registry import describe
from sampan.weights.files import MappedFile, TensorInfo, is_there
from sampan.weights.folder import HEAD, read_plain, with_stored_head, without_others
from sampan.weights.gguf import Gguf, read_gguf_parts
from sampan.weights.naming import complete, named, row_order
from sampan.weights.packed import read_packed
from sampan.weights.purpose import Purpose, of_folder, of_gguf
from sampan.weights.rearranged import rearranged
from sampan.weights.safetensors import read_json

# Not a weight: read into the configuration's frequencies.
_ROPE_FREQS = "rope_freqs.weight"
_CLASSIFIER = ("cls.output.weight", "cls.output.bias")  # of rerankers: a copy of two rows of the head


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model's weights, mapped. Close it, or use it as a context manager; arrays it gave stay valid.

    `generation`: the fields of `generation_config.json`, none for GGUF. `metadata`: GGUF's key values, or
    `generation_config.json` with `config.json` laid over it. `tensors`: by Hugging Face's names.
    `interleaved`: linears whose rows lie in another order, as `Family` has them. `packed`: the matrix that
    holds a tensor, in a folder of packed weights; the tensor itself cannot be read.
    """

    path: Path
    config: ModelConfig
    generation: Mapping[str, object]
    metadata: Mapping[str, object]
    tensors: Mapping[str, TensorInfo]
    files: Mapping[Path, MappedFile]
    interleaved: Mapping[str, str]
    packed: Mapping[str, PackedMatrix] = field(default_factory=dict)
    purpose: Purpose = field(default_factory=Purpose)

    @property
    def where(self) -> str:
        """The file or folder."""
        return str(self.path)

    @property
    def drafts(self) -> bool:
        """Whether it has the layer that its family has for drafts."""
        draft = describe(self.config).draft()
        return draft is not None and draft.weights().keys() <= self.tensors.keys()

    def info(self, name: str) -> TensorInfo:
        """Shape, type and place of a tensor."""
        if name not in self.tensors:
            raise WeightsError(f"{self.path}: has no tensor {quoted(name)}")
        return self.tensors[name]

    def rounded(self, name: str) -> str:
        """To what a tensor was rounded before: its type, or the folder's `quant_method`; empty for floats."""
        info = self.info(name)
        if info.decoder and "quantization_config" in self.metadata:
            return Fields(self.metadata, self.where).section("quantization_config").text("quant_method")
        return info.type.name if info.type.quantised else ""

    def raw(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Bytes of rows [start, stop) as they lie in the file, read-only and not copied; of a tensor with a
        decoder, which has no form, its values in the tensor's type."""
        info = self._info(name)
        stop = info.shape[0] if stop is None else stop
        if info.decoder:
            return encode(self._decoded(info, start, stop), info.type)
        each = info.nbytes // info.shape[0]
        return self.files[info.file].view(info.offset + start * each, (stop - start) * each)

    def array(self, name: str) -> NDArray[np.float32]:
        """The tensor as a new float32 array, in Hugging Face's order of rows."""
        info = self._info(name)
        if info.decoder:
            return self._decoded(info, 0, info.shape[0])
        values = _finite(info, dequantise(self.raw(name), info.type, info.shape))
        if info.turned:
            return np.ascontiguousarray(values.T)
        order = self.row_order(name)
        return values if order is None else values[order]

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [start, stop) of a matrix as a new float32 array, in Hugging Face's order."""
        info = self._info(name)
        if info.decoder:
            return self._decoded(info, start, stop)
        if info.turned:
            return self.array(name)[start:stop]
        raw = self._rows(info, name, start, stop)
        return _finite(info, dequantise(raw, info.type, (stop - start, info.shape[1])))

    def codes(self, name: str, start: int, stop: int) -> Codes:
        """Rows [start, stop) of a matrix that has a form, in Hugging Face's order."""
        info = self._info(name)
        if info.decoder:
            found = info.decoder.codes(info.first + start, info.first + stop)
        else:
            found = codes(self._rows(info, name, start, stop), info.type, (stop - start, info.shape[1]))
        for values in (found.scale, found.minimum):
            if values is not None:
                _finite(info, values)
        return found

    def row_order(self, name: str) -> NDArray[np.intp] | None:
        """Where Hugging Face's rows lie: its row i is the file's row order[i]. None: in the same order."""
        info = self._info(name)
        return row_order(self.interleaved, self.config, name, info.shape[0])

    def panels(self, name: str) -> NDArray[np.uint8]:
        """The packed matrix that holds this tensor, as it lies in the file, read-only and not copied."""
        info = self.info(name)
        return self.files[info.file].view(info.offset, info.nbytes)

    def release(self, name: str, start: int = 0, stop: int | None = None) -> None:
        """Give the pages of these rows, as they lie in the file, back to the system."""
        info = self._info(name)
        stop = info.shape[0] if stop is None else stop
        if info.decoder:
            info.decoder.release(info.first + start, info.first + stop)
            return
        each = info.nbytes // info.shape[0]
        self.files[info.file].release(info.offset + start * each, (stop - start) * each)

    def close(self) -> None:
        """Unmap the files, or leave that to the last array that shows their bytes."""
        for file in self.files.values():
            file.close()

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rows(self, info: TensorInfo, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Bytes of rows in Hugging Face's order."""
        order = self.row_order(name)
        if order is None:
            return self.raw(name, start, stop)
        return self.raw(name).reshape(info.shape[0], -1)[order[start:stop]].reshape(-1)

    @staticmethod
    def _decoded(info: TensorInfo, start: int, stop: int) -> NDArray[np.float32]:
        assert info.decoder is not None
        values = info.decoder.values(info.first + start, info.first + stop)
        return _finite(info, values).reshape(stop - start, *info.shape[1:])

    def _info(self, name: str) -> TensorInfo:
        if name in self.packed:
            raise UnsupportedModel(
                f"{self.path}: tensor {name} is packed for the kernels and has no values to read: "
                "take the model that it was made from"
            )
        return self.info(name)


def open_checkpoint(files: ModelFiles) -> Checkpoint:
    """Map a GGUF file (or the parts of a split one) or a folder of safetensors, and check it whole."""
    with ExitStack() as undo:
        checkpoint = (_open_gguf if files.kind == "gguf" else _open_folder)(files.path, undo)
        tensors = complete(
            checkpoint.where, checkpoint.config, checkpoint.tensors, checkpoint.packed, checkpoint.purpose
        )
        undo.pop_all()
        return replace(checkpoint, tensors=tensors)


def _open_gguf(path: Path, undo: ExitStack) -> Checkpoint:
    parts = read_gguf_parts(path)
    for part in parts:
        undo.callback(part.file.close)
    found = {name: info for part in parts for name, info in part.tensors.items()}
    metadata = parts[0].metadata
    shapes = {name: info.shape for name, info in found.items()}
    config = registry.from_gguf(GgufModel(metadata, shapes, _rope_factors(parts), str(path)))
    family = registry.family_named(config.family, "model family")
    for name in (_ROPE_FREQS, *_CLASSIFIER):
        found.pop(name, None)
    kept = [
        (_canonical(info, family), info) for info in found.values() if not family.ignores(info.name, config)
    ]
    files = {part.file.path: part.file for part in parts}
    return Checkpoint(
        path=path,
        config=config,
        generation=MappingProxyType({}),
        metadata=MappingProxyType(metadata),
        tensors=rearranged(named(kept, family, config), family, config, files),
        files=files,
        interleaved=family.interleaved,
        purpose=of_gguf(metadata, path),
    )


def _canonical(info: TensorInfo, family: Family) -> str:
    name = family.canonical(info.name)
    if name is None:
        raise UnsupportedModel(
            f"{info.file}: tensor {quoted(info.name)} belongs to no supported architecture"
        )
    return name


def _rope_factors(parts: list[Gguf]) -> NDArray[np.float32] | None:
    for part in parts:
        if (info := part.tensors.get(_ROPE_FREQS)) is None:
            continue
        if info.type is not TensorType.F32 or info.nbytes > 2**16:
            raise WeightsError(f"{info.file}: tensor {info.name} must hold one F32 factor a frequency")
        return dequantise(part.file.view(info.offset, info.nbytes), info.type, info.shape)
    return None


def _open_folder(folder: Path, undo: ExitStack) -> Checkpoint:
    fields = read_json(folder / "config.json")
    config = registry.from_hf(fields, str(folder / "config.json"))
    generation: dict[str, object] = {}
    if is_there(folder / "generation_config.json"):
        generation = read_json(folder / "generation_config.json")
    packed = read_packed(folder)
    if packed:
        undo.callback(packed.file.close)
        found, files = packed.tensors, [packed.file]
    else:
        found, files = read_plain(folder, fields, config, undo)
    mapped = {file.path: file for file in files}
    family, purpose = registry.family_named(config.family, "model family"), of_folder(folder)
    if packed:
        config = replace(config, tied_head=config.tied_head and HEAD not in found)
    else:
        found = without_others(folder, found, family)
        config, found = with_stored_head(folder, config, found, mapped)
    kept = ((name, info) for name, info in found.items() if not family.ignores(name, config))
    return Checkpoint(
        path=folder,
        config=config,
        generation=MappingProxyType(generation),
        metadata=MappingProxyType(generation | fields),
        tensors=MappingProxyType(dict(kept)) if packed else named(kept, family, config),
        files=mapped,
        interleaved={},
        packed=MappingProxyType(packed.matrices if packed else {}),
        purpose=purpose,
    )


def _finite(info: TensorInfo, values: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(values).all():
        problem = "holds values that are not finite numbers: the file is damaged"
        raise WeightsError(f"{info.file}: tensor {quoted(info.name)} at byte {info.offset} {problem}")
    return values

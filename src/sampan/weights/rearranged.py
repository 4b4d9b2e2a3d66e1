"""Tensors that a GGUF file keeps otherwise than Hugging Face does (`Family.stored`), read as Hugging Face has
them, without loss."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import WeightsError, quoted
from sampan.kernels.formats import Codes, Form, TensorType, codes, dequantise, form_of
from sampan.models.family import Family, Stored
from sampan.weights.files import Decoder, Floats, MappedFile, TensorInfo


def rearranged(
    tensors: Mapping[str, TensorInfo], family: Family, config: Any, file_of: Mapping[Any, MappedFile]
) -> Mapping[str, TensorInfo]:
    """The tensors, with a decoder where the family keeps one otherwise."""
    found = dict(tensors)
    for name, info in tensors.items():
        if (stored := family.stored(config, name)) is not None:
            decoder = Rearranged(file_of[info.file], info, stored)
            form = decoder.form_at(0)
            type = TensorType.F32 if info.type.quantised and form is None else info.type
            found[name] = replace(info, type=type, decoder=decoder, form=form)
    return MappingProxyType(found)


@dataclass(frozen=True, eq=False)
class Rearranged(Decoder):
    """A tensor of `info` in `file`."""

    file: MappedFile
    info: TensorInfo
    stored: Stored

    def __post_init__(self) -> None:
        info = self.info
        for axis, order in ((0, self.stored.rows), (-1, self.stored.columns)):
            if order is not None and len(order) != info.shape[axis]:
                said = f"has shape {list(info.shape)}, the configuration says {len(order)} for one of them"
                raise WeightsError(f"{info.file}: tensor {quoted(info.name)} at byte {info.offset} {said}")

    def values(self, start: int, stop: int) -> Floats:
        """Rows [start, stop), of a vector its elements."""
        shape = (stop - start, *self.info.shape[1:])
        found = dequantise(self._raw(start, stop), self.info.type, shape)
        if self.stored.columns is not None:
            found = np.take(found, self.stored.columns, axis=1)
        return found if self.stored.read is None else self.stored.read(found)

    def codes(self, start: int, stop: int) -> Codes:
        """The same as codes; columns change places in whole groups."""
        found = codes(self._raw(start, stop), self.info.type, (stop - start, self.info.shape[1]))
        order = self.stored.columns
        if order is None:
            return found
        groups = order[:: found.group] // found.group
        low = found.minimum
        return replace(
            found, q=found.q[:, order], scale=found.scale[:, groups],
            minimum=None if low is None else low[:, groups],
        )  # fmt: skip

    def form_at(self, first: int) -> Form | None:  # noqa: ARG002
        """Of a quantised matrix; None where it comes out as floats."""
        info, order = self.info, self.stored.columns
        if not info.type.quantised or len(info.shape) < 2:
            return None
        form = form_of(info.type)
        if form is None:
            one = self.codes(0, 1)
            form = Form(one.bits, one.group, one.zero, wide=True, has_min=one.minimum is not None)
        if order is not None and (np.diff(order.reshape(-1, form.group)) != 1).any():
            return None  # columns change places inside of a group
        return form

    def release(self, start: int, stop: int) -> None:
        """Give the pages of these rows, as they lie in the file, back to the system."""
        each = self.info.nbytes // self.info.shape[0]
        self.file.release(self.info.offset + start * each, (stop - start) * each)

    def _raw(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Bytes of rows."""
        info, rows = self.info, self.stored.rows
        if rows is None:
            each = info.nbytes // info.shape[0]
            return self.file.view(info.offset + start * each, (stop - start) * each)
        raw = self.file.view(info.offset, info.nbytes).reshape(info.shape[0], -1)
        return raw[rows[start:stop]].reshape(-1)

"""A checkpoint whose matrices all come out in one type of floats, whatever its file has.

What a model is trained as a whole in: a step changes numbers by less than a code of 4 bits can say.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import UnsupportedModel
from sampan.kernels.formats import Codes, PackedMatrix, TensorType, dequantise, rounded
from sampan.weights.checkpoint import Checkpoint
from sampan.weights.files import TensorInfo

Dtype = Literal["f32", "bf16"]
_TYPES: Mapping[Dtype, TensorType] = {"f32": TensorType.F32, "bf16": TensorType.BF16}


@dataclass(frozen=True, eq=False)
class InFloats:
    """See `kernels.tensors.Tensors`: a checkpoint's, with matrices rounded to `type`."""

    checkpoint: Checkpoint
    type: TensorType
    packed: Mapping[str, PackedMatrix] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The file or folder."""
        return self.checkpoint.where

    def info(self, name: str) -> TensorInfo:
        """Shape and type; the place is that of the file's own numbers."""
        info = self.checkpoint.info(name)
        if len(info.shape) != 2:
            return info
        shape = info.shape[::-1] if info.turned else info.shape
        return replace(info, shape=shape, type=self.type, form=None, decoder=None, turned=False)

    def raw(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Bytes of rows [start, stop), of a matrix in the order of Hugging Face."""
        if not self._matrix(name):
            return self.checkpoint.raw(name, start, stop)
        stop = self.info(name).shape[0] if stop is None else stop
        return rounded(self.checkpoint.rows(name, start, stop), self.type)

    def array(self, name: str) -> NDArray[np.float32]:
        """The tensor as a new float32 array."""
        return self._as_kept(name, self.checkpoint.array(name))

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Some rows of a matrix."""
        return self._as_kept(name, self.checkpoint.rows(name, start, stop))

    def codes(self, name: str, start: int, stop: int) -> Codes:
        """Of a tensor that is no matrix; these have none."""
        return self.checkpoint.codes(name, start, stop)

    def row_order(self, name: str) -> NDArray[np.intp] | None:
        """Of a matrix none: its rows come in order."""
        return None if self._matrix(name) else self.checkpoint.row_order(name)

    def release(self, name: str, start: int = 0, stop: int | None = None) -> None:
        """See `Checkpoint.release`; where rows lie in another order, all of them."""
        if self._matrix(name) and (self.checkpoint.info(name).turned or self._moved(name)):
            start, stop = 0, None
        self.checkpoint.release(name, start, stop)

    def panels(self, name: str) -> NDArray[np.uint8]:
        """None is packed."""
        return self.checkpoint.panels(name)

    def _matrix(self, name: str) -> bool:
        return len(self.checkpoint.info(name).shape) == 2

    def _moved(self, name: str) -> bool:
        return self.checkpoint.row_order(name) is not None

    def _as_kept(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.type is TensorType.F32 or not self._matrix(name):
            return values
        return dequantise(rounded(values, self.type), self.type, values.shape)


def in_floats(checkpoint: Checkpoint, dtype: Dtype) -> InFloats:
    """Raises `UnsupportedModel` for weights that are packed for the kernels and have no values to read."""
    if checkpoint.packed:
        raise UnsupportedModel(
            f"{checkpoint.where}: its weights are packed for the kernels and have no values to read as "
            f"{dtype}: take the model that it was made from"
        )
    return InFloats(checkpoint, _TYPES[dtype])

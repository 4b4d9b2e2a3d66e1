"""Tensors that a configuration names and no file holds: what a plan is made of before a model is here, and
what the machine is measured with.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import WeightsError
from sampan.kernels.formats import Codes, Form, PackedMatrix, TensorType

Floats = NDArray[np.float32]
_FILL = 0x3C  # scales of float16 are 1.06 and bf16 0.011: no kernel meets a NaN or a denormal


@dataclass(frozen=True)
class Imagined:
    """See `backend.TensorInfo`."""

    shape: tuple[int, ...]
    type: TensorType
    form: Form | None = None


@dataclass(frozen=True, eq=False)
class ImaginedTensors:
    """See `backend.Tensors`. Norms and biases are ones, packed matrices hold bytes that do not matter; any
    other value cannot be read."""

    infos: Mapping[str, Imagined]
    packed: Mapping[str, PackedMatrix] = field(default_factory=dict)
    where: str = "a configuration"

    def info(self, name: str) -> Imagined:
        """Shape and type."""
        return self.infos[name]

    def array(self, name: str) -> Floats:
        """Ones."""
        return np.ones(self.infos[name].shape, np.float32)

    def panels(self, name: str) -> NDArray[np.uint8]:
        """Memory of its own for a packed matrix."""
        return np.full(self.packed[name].bytes, _FILL, np.uint8)

    def raw(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """There are none."""
        raise self._none(name, start, stop)

    def codes(self, name: str, start: int, stop: int) -> Codes:
        """There are none."""
        raise self._none(name, start, stop)

    def rows(self, name: str, start: int, stop: int) -> Floats:
        """There are none."""
        raise self._none(name, start, stop)

    def row_order(self, name: str) -> None:
        """In order."""

    def release(self, name: str, start: int = 0, stop: int | None = None) -> None:
        """Nothing is kept."""

    def _none(self, name: str, start: int, stop: int | None) -> WeightsError:
        rows = "all rows" if stop is None else f"rows {start} to {stop}"
        return WeightsError(f"{self.where} holds no values for {rows} of {name}: fetch the model")

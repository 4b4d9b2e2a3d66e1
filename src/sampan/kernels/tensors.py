"""What a checkpoint offers a backend: named tensors, their shapes and values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sampan.kernels.formats import Codes, Form, PackedMatrix, TensorType

Floats = NDArray[np.float32]


class TensorInfo(Protocol):
    """What a file says of a tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Row-major, as Hugging Face has it."""

    @property
    def type(self) -> TensorType:
        """Of its numbers in the file, or of what they come out as."""

    @property
    def form(self) -> Form | None:
        """Of codes, where they are to be taken from `codes` and not from `raw`."""

    @property
    def turned(self) -> bool:
        """Whether the file has it [inputs, outputs], and `raw` and `codes` give rows of that."""

    @property
    def file(self) -> Path:
        """That holds it."""

    @property
    def offset(self) -> int:
        """Of its first byte; of a packed matrix, for each of its parts."""


class Tensors(Protocol):
    """A model's named tensors, as `weights/` gives them."""

    @property
    def where(self) -> str:
        """The file or folder, for messages."""

    def info(self, name: str) -> TensorInfo:
        """Shape and type."""

    def raw(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Bytes of these rows in the tensor's type, in the file's order."""

    def codes(self, name: str, start: int, stop: int) -> Codes:
        """Some rows of a tensor that has a form."""

    def array(self, name: str) -> Floats:
        """All values."""

    def rows(self, name: str, start: int, stop: int) -> Floats:
        """Some rows' values."""

    def row_order(self, name: str) -> NDArray[np.intp] | None:
        """Where the tensor's rows lie among the file's, if not in order."""

    def release(self, name: str, start: int = 0, stop: int | None = None) -> None:
        """The bytes of these rows, as they lie in the file, are not needed any more."""

    @property
    def packed(self) -> Mapping[str, PackedMatrix]:
        """By tensor, the packed matrix that holds it: such a tensor has no values to read."""

    def panels(self, name: str) -> NDArray[np.uint8]:
        """The bytes of the packed matrix that holds it."""

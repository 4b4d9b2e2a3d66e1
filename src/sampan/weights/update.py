"""New values for the weights of a loaded model, from arrays or from files."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import WeightsError, quoted
from sampan.kernels.formats import dequantise
from sampan.weights.files import is_folder
from sampan.weights.safetensors import read_safetensors, read_safetensors_folder

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Tensors:
    """Tensors by Hugging Face's names. `rows(name, start, stop)`: some of a tensor's rows as float32."""

    where: str
    shapes: Mapping[str, tuple[int, ...]]
    rows: Callable[[str, int, int], Floats]


def from_arrays(tensors: Mapping[str, Any]) -> Tensors:
    """Arrays of floats, or what numpy makes one of."""
    arrays = {name: _array(name, value) for name, value in tensors.items()}

    def rows(name: str, start: int, stop: int) -> Floats:
        with np.errstate(over="ignore"):
            return arrays[name][start:stop].astype(np.float32)

    return Tensors("the update", {name: array.shape for name, array in arrays.items()}, rows)


def _array(name: object, value: Any) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except Exception as error:  # a tensor of another library, or ragged lists
        said = f"{type(error).__name__}: {quoted(str(error))}"
        raise WeightsError(f"tensor {quoted(name)} is no array for numpy ({said}): give floats") from error
    if array.dtype.kind != "f":
        raise WeightsError(f"tensor {quoted(name)} holds {str(array.dtype)[:80]}: give floats")
    return array


@contextmanager
def from_files(path: Path) -> Iterator[Tensors]:
    """A safetensors file, or a folder of them."""
    files = read_safetensors_folder(path) if is_folder(path) else [read_safetensors(path)]
    found = {name: (file.file, info) for file in files for name, info in file.tensors.items()}

    def rows(name: str, start: int, stop: int) -> Floats:
        file, info = found[name]
        each = info.nbytes // info.shape[0]
        raw = file.view(info.offset + start * each, (stop - start) * each)
        return dequantise(raw, info.type, (stop - start, *info.shape[1:]))

    try:
        yield Tensors(str(path), {name: info.shape for name, (_, info) in found.items()}, rows)
    finally:
        for file in files:
            file.file.close()

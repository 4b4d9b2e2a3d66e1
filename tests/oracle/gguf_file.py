"""A GGUF file of random tensors, as llama.cpp's converter lays a family out, and the oracle of them."""

from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf import quants
from transformers import PreTrainedModel


class GgufFile:
    """Gives every tensor of the oracle the values that the file has. A family says in `_tensors` which of the
    file's tensors one of the oracle's is made of, and gives its values."""

    def __init__(self, path: Path, arch: str, type: Type, seed: int) -> None:
        self.type, self._rng = type, np.random.default_rng(seed)
        self._file = gguf.GGUFWriter(path, arch)

    def write(self, oracle: PreTrainedModel) -> None:
        for name, weight in [*oracle.named_parameters(), *oracle.named_buffers()]:
            if not name.endswith("inv_freq"):
                weight.data = torch.from_numpy(self._tensors(name, tuple(weight.shape)))
        self._file.write_header_to_file()
        self._file.write_kv_data_to_file()
        self._file.write_tensors_to_file()
        self._file.close()

    def _tensors(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        raise NotImplementedError(name, shape)

    def _tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        vector = len(shape) == 1 or "gate_inp" in name
        centre = 1.0 if name.endswith("norm.weight") else 0.0
        deviation = 0.3 if len(shape) == 1 else 1.5 * shape[-1] ** -0.5
        values = self._rng.normal(centre, deviation, shape).astype(np.float32)
        type = Type.F32 if vector else self.type
        raw = values if type is Type.F32 else quants.quantize(values.reshape(-1, shape[-1]), type)
        kept = values if type is Type.F32 else quants.dequantize(raw, type).reshape(shape)
        stored = raw if type is Type.F32 else raw.reshape(*shape[:-1], -1)
        self._file.add_tensor(name, stored[0] if shape[0] == 1 else stored, raw_dtype=type)
        return np.ascontiguousarray(kept)

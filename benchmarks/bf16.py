"""The benchmark's bf16 checkpoint: the weights of a GGUF file, dequantised and rounded to bfloat16.

`write_folder` makes what Sampan reads (config.json, model.safetensors, tokenizer), with Sampan's own reader.
Peers read the same values as GGUF, which the `gguf` package of their environment writes, in bf16 for
llama.cpp and in f16 for OpenVINO GenAI, which refuses bf16 there:

    python benchmarks/bf16.py SOURCE.gguf OUT.gguf bf16|f16
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

Bits = np.ndarray[Any, np.dtype[np.uint16]]


def write_folder(source: Path, folder: Path) -> None:
    """A model folder with every tensor of `source` in bf16."""
    from sampan.core.types import ModelFiles
    from sampan.text.export import export_gguf
    from sampan.weights.checkpoint import open_checkpoint
    from sampan.weights.save import hf_config, staged, write_json

    files = ModelFiles(source, "gguf", source.name, str(source))
    with open_checkpoint(files) as checkpoint, staged(folder) as place:
        ids = export_gguf(checkpoint.metadata, place)
        write_json(place / "config.json", hf_config(checkpoint) | ids | {"dtype": "bfloat16"})
        shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
        with (place / "model.safetensors").open("wb") as file:
            file.write(safetensors_header(shapes))
            for name in shapes:
                file.write(_bf16(checkpoint.array(name)).tobytes())


def safetensors_header(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """What comes before the tensors of a file, all of them bf16."""
    header: dict[str, object] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bf16(values: np.ndarray[Any, np.dtype[np.float32]]) -> Bits:
    """The nearest bfloat16, ties to even, as bits; the values are finite."""
    bits = values.view(np.uint32)
    rounded: Bits = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return rounded


def _widened(bits: Bits) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def write_gguf(source: Path, out: Path, kind: str) -> None:
    """`source` again with its matrices in bf16 or f16; vectors stay float32, as llama.cpp converts them."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, LlamaFileType
    from gguf.quants import dequantize

    reader = GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    partial = out.with_suffix(".partial")
    writer = GGUFWriter(partial, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        item = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(name, field.contents(), field.types[0], item)
    writer.add_file_type(LlamaFileType[f"MOSTLY_{kind.upper()}"])
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values)
            continue
        bits = _bf16(values)
        if kind == "f16":
            bits = _widened(bits).astype(np.float16).view(np.uint16)
        writer.add_tensor(tensor.name, bits.view(np.uint8), raw_dtype=GGMLQuantizationType[kind.upper()])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(out)


if __name__ == "__main__":
    write_gguf(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])

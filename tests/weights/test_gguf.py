"""The GGUF reader: what a good file gives, and that each way of being wrong is named."""

import os
import struct
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGUFValueType

from sampan.core.errors import UnsupportedModel, WeightsError
from sampan.core.types import ModelFiles
from sampan.kernels.formats import TensorType
from sampan.weights.gguf import read_gguf

ARRAY, STRING, BOOL, U32 = 9, 8, 7, 4
Build = Callable[..., "object"]


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    path = tmp_path / "kinds.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    numbers = {
        GGUFValueType.UINT8: 255,
        GGUFValueType.INT8: -128,
        GGUFValueType.UINT16: 65535,
        GGUFValueType.INT16: -32768,
        GGUFValueType.UINT32: 2**32 - 1,
        GGUFValueType.INT32: -(2**31),
        GGUFValueType.FLOAT32: 0.15625,
        GGUFValueType.UINT64: 2**64 - 1,
        GGUFValueType.INT64: -(2**63),
        GGUFValueType.FLOAT64: 1e-300,
        GGUFValueType.BOOL: True,
        GGUFValueType.STRING: "ein 字 🌊",
    }
    for kind, value in numbers.items():
        writer.add_key_value(f"one.{kind.name}", value, kind)
        writer.add_key_value(f"many.{kind.name}", [value] * 3, GGUFValueType.ARRAY, sub_type=kind)
    writer.add_array("nested", [[1, 2], [3]])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    metadata = read_gguf(path).metadata
    for kind, value in numbers.items():
        assert metadata[f"one.{kind.name}"] == value
        assert type(metadata[f"one.{kind.name}"]) is type(value)
        many = metadata[f"many.{kind.name}"]
        assert isinstance(many, list | array)
        assert list(many) == [value] * 3
    assert [list(inner) for inner in metadata["nested"]] == [[1, 2], [3]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("type", TensorType, ids=lambda type: type.name)
def test_every_tensor_type_is_placed(tmp_path: Path, type: TensorType) -> None:
    path = tmp_path / "types.gguf"
    data = np.arange(3 * 2 * type.block_bytes, dtype=np.uint8).reshape(3, -1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("first", np.zeros(5, np.float32))
    writer.add_tensor("t", data, raw_dtype=gguf.GGMLQuantizationType(type.number))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = read_gguf(path)
    info = file.tensors["t"]
    assert (info.type, info.shape, info.nbytes) == (type, (3, 2 * type.block), data.size)
    assert info.offset % 32 == 0
    assert file.file.view(info.offset, info.nbytes).tobytes() == data.tobytes()


def test_another_alignment_is_obeyed(tmp_path: Path) -> None:
    path = tmp_path / "aligned.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(4096)
    writer.add_tensor("t", np.arange(7, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = read_gguf(path)
    assert file.tensors["t"].offset == 4096
    assert file.file.view(4096, 28).view(np.float32).tolist() == list(range(7))


def test_version_2_is_read_as_version_3(gguf_bytes: Build, tmp_path: Path) -> None:
    file = read_gguf(gguf_bytes(1, 0, version=2).tensor().write(tmp_path / "v2.gguf", 128))
    assert file.tensors["t"].shape == (32,)


def test_the_default_models_header_is_read_in_time(default_model: ModelFiles) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        read_gguf(default_model.path).file.close()
        return time.perf_counter() - start

    assert (
        min(seconds() for _ in range(8)) < 0.080
    )  # 0.028 s on two idle cores; the bound allows a busy machine


def scalar(header: "object", kind: int, payload: bytes = b"") -> "object":
    header.key(b"k", kind).bytes += payload
    return header


DAMAGE: dict[str, tuple[Callable[[Build], object], str]] = {
    "magic": (lambda b: b(0, 0, magic=b"GGML"), "is no GGUF file$"),
    "version 1": (lambda b: b(0, 0, version=1), "version at byte 4 is 1"),
    "version 4": (lambda b: b(0, 0, version=4), "version at byte 4 is 4"),
    "big endian": (lambda b: b(0, 0, version=3 << 24), "version at byte 4 is big endian"),
    "tensor count": (lambda b: b(2**63, 0), f"tensor count at byte 8 is {2**63}"),
    "metadata count": (lambda b: b(0, 2**63), f"metadata count at byte 16 is {2**63}"),
    "a metadata count too many": (lambda b: b(0, 2).key(b"key", U32).add("I", 1), "metadata key at byte 43"),
    "empty key": (lambda b: b(0, 1).key(b"", U32).add("I", 1), "metadata key at byte 24 must have 1 to"),
    "long key": (lambda b: b(0, 1).text(b"k" * 65536), "metadata key at byte 24 must have 1 to"),
    "key length": (lambda b: b(0, 1).text(b"key", 2**62), "metadata key at byte 24 ends past the file's"),
    "key text": (lambda b: b(0, 1).key(b"\xff\xfe", U32).add("I", 1), "metadata key at byte 32 is not UTF-8"),
    "key twice": (
        lambda b: b(0, 2).key(b"k", U32).add("I", 1).key(b"k", U32).add("I", 1),
        "metadata key 'k' at byte 41 appears twice",
    ),
    "value type": (lambda b: scalar(b(0, 1), 13), "metadata 'k' type at byte 33 is 13"),
    "bool": (lambda b: scalar(b(0, 1), BOOL, b"\2"), "metadata 'k' at byte 37 is neither true"),
    "string length": (
        lambda b: scalar(b(0, 1), STRING, struct.pack("<Q", 2**64 - 1)),
        "metadata 'k' at byte 37 ends past the file's",
    ),
    "array length": (
        lambda b: b(0, 1).key(b"k", ARRAY).add("IQ", U32, 2**62),
        f"metadata 'k' length at byte 41 is {2**62}",
    ),
    "array of strings": (
        lambda b: b(0, 1).key(b"k", ARRAY).add("IQ", STRING, 2**63),
        f"metadata 'k' length at byte 41 is {2**63}",
    ),
    "array type": (
        lambda b: b(0, 1).key(b"k", ARRAY).add("IQ", 99, 0),
        "metadata 'k' element type at byte 37 is 99",
    ),
    "nested arrays": (
        lambda b: b(0, 1).key(b"k", ARRAY).add("IQ" * 40, *(ARRAY, 1) * 40),
        "metadata 'k' at byte 73 nests arrays more than 4 deep",
    ),
    "alignment": (
        lambda b: b(0, 1).key(b"general.alignment", U32).add("I", 24),
        "general.alignment is 24, not a power of two",
    ),
    "alignment type": (
        lambda b: b(0, 1).key(b"general.alignment", STRING).text(b"32"),
        "general.alignment is '32', not a power of two",
    ),
    "dimension count": (lambda b: b(1, 0).tensor(dims=(1,) * 5), "dimensions at byte 33 are 5 in number"),
    "no dimensions": (lambda b: b(1, 0).tensor(dims=()).add("Q", 0), "dimensions at byte 33 are 0 in number"),
    "zero dimension": (lambda b: b(1, 0).tensor(dims=(32, 0)), r"dimensions at byte 33 are \[32, 0\]"),
    "overflow": (lambda b: b(1, 0).tensor(dims=(2**32, 2**32)), "their product below 2"),
    "huge dimension": (lambda b: b(1, 0).tensor(dims=(2**64 - 1,)), "their product below 2"),
    "whole blocks": (lambda b: b(1, 0).tensor(dims=(48,), kind=8), r"are \[48\]: Q8_0 has blocks of 32"),
    "offset alignment": (lambda b: b(1, 0).tensor(offset=16), "offset at byte 24 is 16, not a multiple"),
    "offset outside": (lambda b: b(1, 0).tensor(offset=2**60), "data at byte .* ends past the file's"),
    "data cut short": (lambda b: b(1, 0).tensor(dims=(65,)), "data at byte 64 has 260 bytes and ends past"),
    "tensor twice": (lambda b: b(2, 0).tensor().tensor(), "tensor 't' at byte 57 appears twice"),
    "overlap": (
        lambda b: b(2, 0).tensor(b"a", (16,)).tensor(b"b", (16,), offset=32),
        "tensor 'b' data at byte 128 overlaps tensor 'a'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_with_file_field_and_byte(gguf_bytes: Build, tmp_path: Path, kind: str) -> None:
    build, message = DAMAGE[kind]
    path = build(gguf_bytes).write(tmp_path / "damaged.gguf", 128)
    with pytest.raises(WeightsError, match=message) as caught:
        read_gguf(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("number", "name"), [(9, "Q8_1"), (40, "NVFP4"), (4, "of no known name"), (999, "")])
def test_a_type_without_a_decoder_is_named(gguf_bytes: Build, tmp_path: Path, number: int, name: str) -> None:
    path = gguf_bytes(1, 0).tensor(b"blk.0.ffn_up.weight", kind=number).write(tmp_path / "iq.gguf", 128)
    with pytest.raises(UnsupportedModel, match=rf"'blk\.0\.ffn_up\.weight' type .* is {number} \({name}"):
        read_gguf(path)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(WeightsError, match=r"empty\.gguf: is empty"):
        read_gguf(tmp_path / "empty.gguf")
    os.mkfifo(tmp_path / "pipe.gguf")  # opening it would wait for a writer for ever
    for path in (tmp_path, tmp_path / "pipe.gguf"):
        with pytest.raises(WeightsError, match="is not a regular file"):
            read_gguf(path)
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        read_gguf(tmp_path / "nothing.gguf")

"""The safetensors reader: what the package writes, and that each way of being wrong is named."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sampan.core.errors import UnsupportedModel, WeightsError
from sampan.kernels.formats import TensorType
from sampan.weights.safetensors import read_json, read_safetensors, read_safetensors_folder

Write = Callable[..., tuple[Path, dict[str, np.ndarray]]]
NONE = "is no safetensors file, or its header is damaged or cut short$"
GOOD = {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}


def write(path: Path, header: object, data: int = 32, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(data))
    return path


def test_bytes_types_and_shapes_are_the_writers(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 5),
        "b": torch.randn(2, 2, 2).to(torch.bfloat16),
        "c": torch.randn(7).to(torch.float16),
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 4),
    }
    save_file(tensors, tmp_path / "t.safetensors", metadata={"format": "pt"})
    file = read_safetensors(tmp_path / "t.safetensors")
    assert file.tensors.keys() == tensors.keys()
    assert [file.tensors[name].type for name in "abc"] == [TensorType.F32, TensorType.BF16, TensorType.F16]
    for name, tensor in tensors.items():
        info = file.tensors[name]
        assert info.shape == tuple(tensor.shape)
        expected = (
            tensor.reshape(-1).view(torch.uint8) if tensor.ndim else tensor.reshape(1).view(torch.uint8)
        )
        assert file.file.view(info.offset, info.nbytes).tobytes() == expected.numpy().tobytes()


DAMAGE: dict[str, tuple[object, str]] = {
    "hole before": ({"t": GOOD | {"data_offsets": [4, 36]}}, "data_offsets at byte .* leave a hole"),
    "hole between": (
        {"t": GOOD | {"shape": [2], "data_offsets": [0, 8]}, "u": GOOD | {"data_offsets": [16, 48]}},
        "tensor 'u' data_offsets at byte .* leave a hole or overlap",
    ),
    "overlap": ({"t": GOOD, "u": GOOD}, "leave a hole or overlap"),
    "data left over": ({"t": GOOD | {"shape": [2], "data_offsets": [0, 8]}}, "data at byte .* ends, but"),
    "data cut short": ({"t": GOOD | {"shape": [16], "data_offsets": [0, 64]}}, "cut short or damaged"),
    "shape against range": ({"t": GOOD | {"shape": [2, 3]}}, r"span 32 bytes, but F32 of .* has 24"),
    "range backwards": ({"t": GOOD | {"data_offsets": [32, 0]}}, "span -32 bytes"),
    "negative": ({"t": GOOD | {"data_offsets": [-32, 0]}}, "whole numbers"),
    "huge shape": ({"t": GOOD | {"shape": [2**62, 2**62]}}, "span 32 bytes"),
    "beyond 63 bits": ({"t": GOOD | {"shape": [2**64]}}, "whole numbers below"),
    "many dimensions": ({"t": GOOD | {"shape": [1] * 5000}}, "whole numbers below"),
    "float shape": ({"t": GOOD | {"shape": [2.0, 4]}}, "whole numbers"),
    "true shape": ({"t": GOOD | {"shape": [True, 8]}}, "whole numbers"),
    "three offsets": ({"t": GOOD | {"data_offsets": [0, 16, 32]}}, "two data_offsets"),
    "no dtype": ({"t": {"shape": [8], "data_offsets": [0, 32]}}, NONE),
    "extra field": ({"t": GOOD | {"stride": [4, 1]}}, NONE),
    "entry": ({"t": [1, 2]}, NONE),
    "key twice": (b'{"t":{},"t":{}}', NONE),
    "field twice": (b'{"t":{"dtype":"F32","dtype":"F32"}}', NONE),
    "not JSON": (b'{"t":', NONE),
    "not an object": (b"[]", NONE),
    "not UTF-8": (b'{"\xff":1}', NONE),
    "NaN": (b'{"t":NaN}', NONE),
    "deep": (b'{"t":' + b"[" * 200_000, NONE),
    "long number": (b'{"t":' + b"9" * 100_000 + b"}", NONE),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_with_file_and_field(tmp_path: Path, kind: str) -> None:
    header, message = DAMAGE[kind]
    path = write(tmp_path / "damaged.safetensors", header)
    with pytest.raises(WeightsError, match=message) as caught:
        read_safetensors(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 100])
def test_a_header_longer_than_the_file_is_none(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "t.safetensors", {"t": GOOD}, data=0, length=length)
    with pytest.raises(WeightsError, match=NONE):
        read_safetensors(path)
    path.write_bytes(b"1234567")
    with pytest.raises(WeightsError, match=NONE):
        read_safetensors(path)


@pytest.mark.parametrize("dtype", ["I32", "F8_E4M3", "U8", "F64"])
def test_another_dtype_is_named_with_its_tensor(tmp_path: Path, dtype: str) -> None:
    path = write(tmp_path / "t.safetensors", {"model.q.weight": GOOD | {"dtype": dtype}})
    with pytest.raises(
        UnsupportedModel, match=f"'model.q.weight' has dtype '{dtype}': readable are BF16, F16, F32"
    ):
        read_safetensors(path)


def test_a_missing_shard_is_named(write_folder: Write) -> None:
    folder, _ = write_folder(shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model-00002-of-00003\.safetensors.* is missing"):
        read_safetensors_folder(folder)


def change_index(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def test_shards_count_where_the_index_says_something_else(write_folder: Write) -> None:
    # a tied head that was not stored, a tensor in another shard, one that the index does not know
    name, other = "model.norm.weight", "model-00002-of-00002.safetensors"
    folder, weights = write_folder(shards=2)

    def names() -> set[str]:
        return {name for shard in read_safetensors_folder(folder) for name in shard.tensors}

    for change, told in (
        (lambda index: index.update({"lm_head.ghost": other}), "'lm_head.ghost': it is in None and not in"),
        (lambda index: index.update({name: other}), "'lm_head.ghost'.*, and so for 1 more$"),
        (lambda index: index.pop(name), "'lm_head.ghost'.*, and so for 1 more$"),
    ):
        change_index(folder, change)
        with pytest.warns(UserWarning, match=f"passed over what it says of tensor {told}"):
            assert names() == weights.keys()


def test_a_whole_file_counts_more_than_an_index_beside_it(write_folder: Write) -> None:
    folder, weights = write_folder()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "model-1.safetensors"}}')
    with pytest.warns(UserWarning, match="passed over model.safetensors.index.json: model.safetensors is"):
        (shard,) = read_safetensors_folder(folder)
    assert shard.tensors.keys() == weights.keys()


@pytest.mark.parametrize(
    "shard",
    ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin", 3, "a\0.safetensors", "\ud800"],
)
def test_an_index_that_leads_elsewhere_is_refused(write_folder: Write, shard: object) -> None:
    folder, _ = write_folder(shards=2)
    change_index(folder, lambda index: index.update({"model.norm.weight": shard}))
    with pytest.raises(WeightsError, match=r"a shard that is no \*\.safetensors file beside it$"):
        read_safetensors_folder(folder)


def test_a_tensor_in_two_shards_is_named(write_folder: Write) -> None:
    folder, _ = write_folder(shards=2)
    first, second = sorted(folder.glob("*.safetensors"))
    second.write_bytes(first.read_bytes())
    with pytest.raises(WeightsError, match=r"00002-of-00002.safetensors: tensor .* is also in model-00001"):
        read_safetensors_folder(folder)


def test_a_folder_needs_one_file_or_an_index(write_folder: Write, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds 0 \*\.safetensors files"):
        read_safetensors_folder(tmp_path)
    folder, weights = write_folder()
    (folder / "model.safetensors").rename(folder / "only.safetensors")
    (shard,) = read_safetensors_folder(folder)
    assert shard.tensors.keys() == weights.keys()
    (folder / "second.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"holds 2 \*\.safetensors files"):
        read_safetensors_folder(folder)


def test_json_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(WeightsError, match=r"config\.json: cannot be read: No such file"):
        read_json(path)
    path.write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json: is not a JSON object as configurations are$"):
        read_json(path)
    with path.open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(WeightsError, match=r"is not a JSON object as configurations are$"):
        read_json(path)

"""Whatever the bytes and options of a quantised folder: a named error or values, in no more memory than they
justify."""

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.core.errors import SampanError
from sampan.core.types import ModelFiles
from sampan.models.registry import load_file
from sampan.weights.checkpoint import open_checkpoint

CASES = load_file(Path(__file__).parents[1] / "packers.py").CASES
SOME = ("fp8 small blocks", "gptq ordered", "gptq asymmetric", "awq", "compressed 4 asymmetric")
MIB = 2**20

values = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.integers(-1, 300), st.floats(),
    st.sampled_from(["group", "channel", "tensor", "block", "int", "float", "gemm", "gptq_v2", "static", ""]),
    st.lists(st.integers(-1, 200), max_size=3),
    st.dictionaries(st.sampled_from(["format", "a"]), st.booleans()),
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(
    write_folder: Callable[..., Any], packers: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, bytes, dict[str, Any]]]:
    """By case: a folder, the bytes of its weights and its configuration."""
    plain, _ = write_folder("qwen2")
    made = {}
    for case in SOME:
        folder = tmp_path_factory.mktemp("hostile")
        packers.quantise(plain, folder, *CASES[case])
        config = json.loads((folder / "config.json").read_text())
        made[case] = folder, (folder / "model.safetensors").read_bytes(), config
    return made


def refusal(folder: Path) -> SampanError | None:
    """Read everything in every way; what was said against it. An error that is not ours fails the test."""
    try:
        with open_checkpoint(ModelFiles(folder, "folder", "", "")) as checkpoint:
            for name, info in checkpoint.tensors.items():
                assert checkpoint.array(name).shape == info.shape
                if info.decoder is None:
                    continue
                if info.form is None:
                    assert checkpoint.raw(name).size == info.type.nbytes(info.shape)
                    continue
                codes = checkpoint.codes(name, 0, info.shape[0])
                assert codes.scale.shape == (info.shape[0], -(-info.shape[1] // info.form.group))
                assert int(codes.q.max()) < 2**codes.bits
    except SampanError as error:
        return error
    return None


def read_all(folder: Path) -> None:
    tracemalloc.start()
    error = refusal(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * MIB
    assert error is None or str(folder) in str(error)
    assert "\n" not in str(error)


@settings(max_examples=150, deadline=None)
@given(
    case=st.sampled_from(SOME),
    changes=st.lists(st.tuples(st.integers(0, 2**40), st.integers(1, 255)), max_size=4),
)
def test_flipped_bytes(folders: Any, case: str, changes: list[tuple[int, int]]) -> None:
    folder, content, config = folders[case]
    changed = bytearray(content)
    for place, mask in changes:
        changed[place % len(content)] ^= mask
    (folder / "model.safetensors").write_bytes(changed)
    (folder / "config.json").write_text(json.dumps(config))
    read_all(folder)


@settings(max_examples=150, deadline=None)
@given(case=st.sampled_from(SOME), places=st.data(), sizes=st.lists(st.integers(0, 200), max_size=3))
def test_a_part_of_another_shape(folders: Any, case: str, places: Any, sizes: list[int]) -> None:
    """Any part of any module with any small shape, and the data that it then has."""
    folder, content, config = folders[case]
    length = struct.unpack_from("<Q", content)[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    name = places.draw(st.sampled_from(sorted(n for n in header if ".layers.0.mlp." in n)))
    item = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "I64": 8}.get(header[name]["dtype"], 1)
    nbytes = item * int(np.prod(sizes, dtype=np.int64))
    parts, at = [], 0
    for one, fields in sorted(header.items(), key=lambda pair: pair[1].get("data_offsets", [0])[0]):
        if one == "__metadata__":
            continue
        start, stop = fields["data_offsets"]
        part = data[start:stop]
        if one == name:
            part, fields["shape"] = (part * (nbytes // max(len(part), 1) + 1))[:nbytes], sizes
        fields["data_offsets"] = [at, at + len(part)]
        parts.append(part)
        at += len(part)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))
    (folder / "config.json").write_text(json.dumps(config))
    read_all(folder)


@settings(max_examples=300, deadline=None)
@given(case=st.sampled_from(SOME), place=st.data(), value=values)
def test_hostile_options(folders: Any, case: str, place: Any, value: object) -> None:
    folder, content, config = folders[case]
    (folder / "model.safetensors").write_bytes(content)
    changed = json.loads(json.dumps(config))
    section = changed["quantization_config"]
    while True:
        name = place.draw(st.sampled_from(sorted(section)))
        if not isinstance(section[name], dict) or not section[name] or place.draw(st.booleans()):
            break
        section = section[name]
    section[name] = value
    (folder / "config.json").write_text(json.dumps(changed))
    read_all(folder)

"""Whatever the bytes of a file: a named error or a model, soon, in no more memory than they justify."""

import json
import os
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.core.errors import SampanError
from sampan.core.types import ModelFiles
from sampan.weights.checkpoint import open_checkpoint
from sampan.weights.gguf import read_gguf

Write = Callable[..., tuple[Path, dict[str, np.ndarray]]]
MIB = 2**20
SECONDS = 5
HEADER = 1_785_664  # bytes of the default model's file before its first tensor

FIELDS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim", "vocab_size", "rms_norm_eps"),
    *("rope_theta", "rope_scaling", "max_position_embeddings", "model_type", "layer_types"),
)

flips = st.lists(st.tuples(st.integers(0, 2**40), st.integers(1, 255)), min_size=1, max_size=4)


def refusal(path: Path, arrays: bool = True) -> SampanError | None:
    """Open and read everything; what was said against it. An error that is not ours fails the test."""
    try:
        kind = "folder" if path.is_dir() else "gguf"
        with open_checkpoint(ModelFiles(path, kind, "", "")) as checkpoint:
            for name in checkpoint.tensors if arrays else ():
                checkpoint.array(name)
    except SampanError as error:
        return error
    return None


def read_all(path: Path) -> bool:
    """Whether everything in a tiny model could be read; how it is refused, and what that took, is checked."""
    tracemalloc.start()
    start = time.monotonic()
    error = refusal(path)
    seconds = time.monotonic() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < SECONDS
    assert peak < 16 * MIB
    assert error is None or str(path) in str(error)
    assert "\n" not in str(error)
    return error is None


@pytest.fixture(scope="session")
def tiny(write_gguf: Write) -> tuple[Path, bytes, int]:
    """A tiny GGUF with a vocabulary: its path, its bytes, and where its data begins."""
    tokens = [f"t{n}" for n in range(80)]
    path, _ = write_gguf(
        "qwen3", more=lambda writer: (writer.add_token_list(tokens), writer.add_token_types([1] * 80))
    )
    start = min(info.offset for info in read_gguf(path).tensors.values())
    return path, path.read_bytes(), start


@pytest.fixture(scope="session")
def folder(write_folder: Write) -> tuple[Path, bytes, int]:
    """A tiny folder, the bytes of its safetensors file, and where its data begins."""
    path, _ = write_folder("qwen2")
    content = (path / "model.safetensors").read_bytes()
    return path, content, 8 + struct.unpack_from("<Q", content)[0]


def flipped(content: bytes, changes: list[tuple[int, int]], end: int) -> bytes:
    changed = bytearray(content)
    for position, mask in changes:
        changed[position % end] ^= mask
    return bytes(changed)


def test_a_gguf_cut_short_anywhere_is_refused(tiny: tuple[Path, bytes, int]) -> None:
    path, content, start = tiny
    ends = [info.offset + info.nbytes for info in read_gguf(path).tensors.values()]
    cuts = {*range(200), *range(200, start, 41), start - 1, start, *ends, *(end - 1 for end in ends)}
    copy = path.with_name("cut.gguf")
    for cut in cuts - {max(ends)}:
        copy.write_bytes(content[:cut])
        assert not read_all(copy), cut
    copy.write_bytes(content[: max(ends)])
    assert read_all(copy)  # the padding after the last tensor may be missing


def test_a_folder_cut_short_anywhere_is_refused(folder: tuple[Path, bytes, int]) -> None:
    path, content, start = folder
    for cut in {*range(0, start, 61), 7, 8, 9, start - 1, start, start + 4, len(content) - 1}:
        (path / "model.safetensors").write_bytes(content[:cut])
        assert not read_all(path), cut
    (path / "model.safetensors").write_bytes(content)
    assert read_all(path)


@settings(max_examples=250, deadline=None)
@given(changes=flips)
def test_flipped_bytes_in_a_gguf_header(
    tiny: tuple[Path, bytes, int], changes: list[tuple[int, int]]
) -> None:
    path, content, start = tiny
    copy = path.with_name("flipped.gguf")
    copy.write_bytes(flipped(content, changes, start))
    read_all(copy)


@settings(max_examples=200, deadline=None)
@given(changes=flips)
def test_flipped_bytes_in_a_safetensors_header(
    folder: tuple[Path, bytes, int], changes: list[tuple[int, int]]
) -> None:
    path, content, start = folder
    (path / "model.safetensors").write_bytes(flipped(content, changes, start))
    read_all(path)


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 2**40), gone=st.integers(0, 40), inserted=st.binary(max_size=40))
def test_bytes_lost_and_inserted(tiny: tuple[Path, bytes, int], at: int, gone: int, inserted: bytes) -> None:
    path, content, start = tiny
    at %= start
    copy = path.with_name("spliced.gguf")
    copy.write_bytes(content[:at] + inserted + content[at + gone :])
    read_all(copy)


@settings(max_examples=150, deadline=None)
@given(rest=st.binary(max_size=200), tensors=st.integers(0, 3), keys=st.integers(0, 3))
def test_random_bytes_after_a_good_beginning(
    tiny: tuple[Path, bytes, int], rest: bytes, tensors: int, keys: int
) -> None:
    copy = tiny[0].with_name("random.gguf")
    copy.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest)
    assert not read_all(copy)


@pytest.fixture(scope="session")
def real_header(default_model: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model's real header before zeros that take no room on the disk."""
    path = tmp_path_factory.mktemp("real") / "header.gguf"
    with default_model.path.open("rb") as source, path.open("wb") as copy:
        copy.write(source.read(HEADER))
        copy.truncate(default_model.path.stat().st_size)
    return path


def flip(path: Path, places: list[tuple[int, int]]) -> None:
    with path.open("r+b", buffering=0) as file:
        for place, mask in places:
            byte = os.pread(file.fileno(), 1, place)[0]
            os.pwrite(file.fileno(), bytes([byte ^ mask]), place)


@settings(max_examples=40, deadline=None)
@given(changes=flips, region=st.sampled_from([(0, 2500), (HEADER - 20_000, HEADER), (0, HEADER)]))
def test_flipped_bytes_in_the_real_header(
    real_header: Path, changes: list[tuple[int, int]], region: tuple[int, int]
) -> None:
    places = [(region[0] + place % (region[1] - region[0]), mask) for place, mask in changes]
    start = time.monotonic()
    flip(real_header, places)
    error = refusal(real_header, arrays=False)
    flip(real_header, places)
    assert time.monotonic() - start < SECONDS
    assert error is None or str(real_header) in str(error)


@settings(max_examples=60, deadline=None)
@given(
    field=st.sampled_from(FIELDS),
    value=st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=8),
        st.lists(st.integers(), max_size=3),
        st.dictionaries(st.sampled_from(["type", "factor", "rope_type"]), st.integers() | st.just("yarn")),
    ),
)
def test_hostile_configurations(folder: tuple[Path, bytes, int], field: str, value: object) -> None:
    path, content, _ = folder
    (path / "model.safetensors").write_bytes(content)
    good = (path / "config.json").read_text()
    (path / "config.json").write_text(json.dumps(json.loads(good) | {field: value}))
    try:
        read_all(path)
    finally:
        (path / "config.json").write_text(good)


LIMITED = """
import resource, sys, time
from pathlib import Path
from sampan.core.errors import SampanError
from sampan.weights.gguf import read_gguf
from sampan.weights.safetensors import read_safetensors
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 256 * 2**20,) * 2)
for name in sys.argv[1:]:
    path, start = Path(name), time.monotonic()
    try:
        (read_gguf if path.suffix == ".gguf" else read_safetensors)(path).file.close()
        said = "read"
    except SampanError as error:
        said = type(error).__name__
    print(path.stem, said, time.monotonic() - start < 20)
"""


def bombs(folder: Path) -> dict[Path, str]:
    """Files that say they need a great deal, and what reading each should say."""
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9)
    lines = struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 2**62, 0, 0)
    contents = {
        "strings.gguf": (start + struct.pack("<IQ", 8, 2 * MIB) + bytes(16 * MIB), "read"),
        "arrays.gguf": (start + struct.pack("<IQ", 9, MIB) + bytes(12 * MIB), "read"),
        "bools.gguf": (start + struct.pack("<IQ", 7, 8 * MIB) + bytes(8 * MIB), "read"),
        "elements.gguf": (start + struct.pack("<IQ", 12, 2**60) + bytes(MIB), "WeightsError"),
        "length.gguf": (start[:-4] + struct.pack("<IQ", 8, 2**40) + bytes(MIB), "WeightsError"),
        "keys.gguf": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**20) + bytes(32 * MIB), "WeightsError"),
        "tensors.gguf": (b"GGUF" + struct.pack("<IQQ", 3, 65537, 0) + lines * 65537, "WeightsError"),
        "dims.gguf": (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + lines + bytes(MIB), "WeightsError"),
        "header.safetensors": (struct.pack("<Q", 40 * MIB) + b" " * (40 * MIB), "WeightsError"),
        "shape.safetensors": (
            struct.pack("<Q", 66)
            + b'{"t":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}}'[:66],
            "WeightsError",
        ),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    return {folder / name: said for name, (_, said) in contents.items()}


def test_files_that_ask_for_much_get_little(tmp_path: Path) -> None:
    expected = bombs(tmp_path)
    command = [sys.executable, "-c", LIMITED, *map(str, expected)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{path.stem} {said} True" for path, said in expected.items()]

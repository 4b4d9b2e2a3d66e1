"""Whatever a path leads to: an error of ours that says where, at once, and nothing of what lies there."""

import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sampan.core.errors import SampanError, UsageError, WeightsError
from sampan.core.types import ModelFiles
from sampan.weights.checkpoint import open_checkpoint
from sampan.weights.files import given_path
from sampan.weights.lora import read_lora
from sampan.weights.safetensors import read_json
from sampan.weights.update import from_files

SECRET = "hunter2-is-the-password"


def _update(path: Path) -> None:
    with from_files(path):
        pass


READERS: dict[str, Callable[[Path], Any]] = {
    "update": _update,
    "adapter": lambda path: read_lora(path, {}),
    "gguf": lambda path: open_checkpoint(ModelFiles(path, "gguf", "", "")),
    "folder": lambda path: open_checkpoint(ModelFiles(path, "folder", "", "")),
    "json": read_json,
}


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _socket(path: Path) -> Path:
    place = os.open(path.parent, os.O_RDONLY)
    here = Path.cwd()
    os.fchdir(place)  # a socket's path must be short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)
        os.close(place)
    return path


def _loop(path: Path) -> Path:
    path.symlink_to(path)
    return path


def _with(name: str, make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """A folder in which `make` makes what the reader opens first."""

    def folder(path: Path) -> Path:
        path.mkdir()
        make(path / name)
        return path

    return folder


KINDS: dict[str, Callable[[Path], Path]] = {
    "nothing": lambda path: path,
    "below a file": lambda path: (path.write_text("x"), path / "in")[1],
    "a zero byte": lambda path: Path(f"{path}\0.safetensors"),
    "half a character": lambda path: Path(f"{path}\ud800"),
    "a long name": lambda path: path / ("n" * 300),
    "a long path": lambda path: path.joinpath(*["n" * 99] * 50),
    "an empty folder": lambda path: (path.mkdir(), path)[1],
    "an empty file": lambda path: (path.write_text(""), path)[1],
    "a pipe": _fifo,
    "a socket": _socket,
    "a link to itself": _loop,
    "a device": lambda _: Path("/dev/zero"),
    "a terminal": lambda _: Path("/dev/tty"),
    "memory": lambda _: Path("/proc/self/mem"),
    "a pipe inside": _with("model.safetensors", _fifo),
    "a pipe as index": _with("model.safetensors.index.json", _fifo),
    "a pipe as config": _with("config.json", _fifo),
    "a pipe as adapter": _with("adapter_config.json", _fifo),
    "a device as adapter": _with("adapter_config.json", lambda path: (path.symlink_to("/dev/zero"), path)[1]),
    "a folder as config": _with("config.json", lambda path: (path.mkdir(), path)[1]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_weights_is_refused_at_once(tmp_path: Path, reader: str, kind: str) -> None:
    path = KINDS[kind](tmp_path / "it")
    start = time.monotonic()
    with pytest.raises(SampanError) as caught:
        READERS[reader](path)
    assert time.monotonic() - start < 2
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 400
    assert said.lstrip("'").startswith(str(path)[:60])


@contextmanager
def somebody_else() -> Iterator[None]:
    """Root may enter every folder."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100])
@pytest.mark.parametrize("below", ["", "deeper", "deeper/still"])
@pytest.mark.parametrize("reader", READERS)
def test_a_folder_that_may_not_be_entered(tmp_path: Path, reader: str, below: str, mode: int) -> None:
    folder = tmp_path / "closed"
    (folder / "deeper" / "still").mkdir(parents=True)
    folder.chmod(mode)
    try:
        with somebody_else(), pytest.raises(WeightsError, match=r"/closed.*: "):
            READERS[reader](folder / below)
    finally:
        folder.chmod(0o700)


@pytest.mark.parametrize("reader", ["update", "adapter", "folder"])
def test_a_closed_folder_is_not_called_empty(tmp_path: Path, reader: str) -> None:
    (tmp_path / "closed").mkdir(0o000)
    with somebody_else(), pytest.raises(WeightsError, match="cannot be read: Permission denied"):
        READERS[reader](tmp_path / "closed")


@pytest.mark.parametrize("value", [None, 3, b"model", True, "", object(), ["a"]])
def test_what_is_no_path(value: object) -> None:
    with pytest.raises(UsageError, match=r"^source is .*: give the path of a file or folder$"):
        given_path("source", value)


def deep(depth: int) -> str:
    return '{"a":' + "[" * depth + "]" * depth + "}"


CONTENTS: dict[str, bytes] = {
    "a password": f"root:{SECRET}:0:0:{SECRET}\n".encode() * 20,
    "a short one": SECRET.encode()[:7],
    "JSON": json.dumps({"password": SECRET, SECRET: 7}).encode(),
    "JSON twice": f'{{"{SECRET}":1,"{SECRET}":2}}'.encode(),
    "broken JSON": f'{{"password": {SECRET}}}'.encode(),
    "no UTF-8": SECRET.encode() + b"\xff\xfe",
    "a list": json.dumps([SECRET]).encode(),
    "deep": deep(500).encode(),
    "very deep": deep(100_000).encode(),
    "framed JSON": struct.pack("<Q", 40) + json.dumps({SECRET: SECRET}).encode().ljust(60),
    "framed list": struct.pack("<Q", 40) + json.dumps([SECRET]).encode().ljust(60),
    "framed twice": struct.pack("<Q", 56) + f'{{"{SECRET}":1,"{SECRET}":2}}'.encode().ljust(60),
    "framed and deep": struct.pack("<Q", 200_006) + deep(100_000).encode(),
    "zeros": bytes(1000),
    "a weight map": json.dumps({"weight_map": {SECRET: SECRET}}).encode(),
    "another adapter": json.dumps({"peft_type": SECRET, "r": SECRET}).encode(),
    "values": json.dumps({"peft_type": "LORA", "r": SECRET, "lora_alpha": 8}).encode(),
    "an unknown field": json.dumps({"peft_type": "LORA", "note": SECRET}).encode(),
    "a start": json.dumps({"peft_type": "LORA", "init_lora_weights": SECRET}).encode(),
}
PLACES = ("it.safetensors", "model.safetensors", "model.safetensors.index.json", "adapter_config.json")


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("place", PLACES)
def test_errors_tell_nothing_of_files_that_are_no_weights(tmp_path: Path, place: str, content: str) -> None:
    (tmp_path / place).write_bytes(CONTENTS[content])
    path = tmp_path / place if place.startswith("it") else tmp_path
    with pytest.raises(SampanError) as caught:
        READERS["adapter" if place.startswith("adapter") else "update"](path)
    said = str(caught.value).replace(str(tmp_path), "")
    assert SECRET[:6] not in said
    assert str(len(CONTENTS[content])) not in said
    assert str(int.from_bytes(CONTENTS[content][:8], "little")) not in said
    assert not any(word in said for word in ("line", "column", "char", "byte"))


def test_a_file_cut_short_still_says_so(tmp_path: Path) -> None:
    header = json.dumps({"t": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    (tmp_path / "t.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(12))
    with pytest.raises(
        WeightsError, match=r"data at byte 86 ends, but the file has 82 bytes: it is cut short"
    ):
        _update(tmp_path / "t.safetensors")

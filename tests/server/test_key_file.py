"""Whatever lies where a key file should be: an error of ours, at once, and no other reader is held up."""

import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.core.errors import SampanError, StorageError, UsageError
from sampan.server.storage.key_file import FileKeys
from sampan.server.storage.keys import Key, digest, generate

DIGEST = "0" * 64
KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (os.mkfifo, "is no key file but a folder, a pipe or a device"),
    "a folder": (Path.mkdir, "is no key file but a folder"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is no key file but a folder"),
    "a link to itself": (lambda path: path.symlink_to(path), "cannot be read: Too many levels"),
}


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file(tmp_path: Path, kind: str, create: bool) -> None:
    make, said = KINDS[kind]
    make(tmp_path / "keys")
    start = time.monotonic()
    with pytest.raises(StorageError, match=said):
        FileKeys(tmp_path / "keys", create=create)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("name", ["n" * 300, "n/" * 3000, "a\0b", "\ud800"])
def test_what_is_no_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError) as caught:
        FileKeys(tmp_path / name)
    assert len(str(caught.value)) < 500


DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
LINES = [
    DEEP,
    f'{{"id":"x","sha256":"{DIGEST}","models":{"[" * 100_000}{"]" * 100_000}}}',
    json.dumps({"id": "x", "sha256": DIGEST, "models": [["a"]]}),
    json.dumps({"id": "x", "sha256": DIGEST, "models": [3]}),
    json.dumps({"id": "x", "sha256": DIGEST, "n\n" * 500: 1}),
    json.dumps({"id": "x\n" * 500, "sha256": DIGEST, "tokens_per_day": 0}),
    json.dumps({"id": "x", "sha256": 3}),
]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_line_that_is_none_costs_only_itself(tmp_path: Path, line: str) -> None:
    path = tmp_path / "keys"
    path.write_text(line)
    with pytest.raises(SampanError, match="line 1: ") as caught:
        FileKeys(path)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)
    path.write_text("a-key-of-my-own-choice")
    keys = FileKeys(path)
    path.write_text(f"{line}\na-key-of-my-own-choice")
    assert keys.find("a-key-of-my-own-choice") is not None


def test_a_folder_that_is_made_is_its_owners(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        FileKeys(tmp_path / "deep" / "keys", create=True).add(generate("x")[0], digest("x"))
    finally:
        os.umask(before)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert found == {"deep": 0o700, "keys": 0o600, "keys.lock": 0o600}


def test_an_id_that_is_not_there_is_told_short(tmp_path: Path) -> None:
    keys = FileKeys(tmp_path / "keys", create=True)
    with pytest.raises(UsageError, match="no key with the id 'xxx") as caught:
        keys.revoke("x" * 5000)
    assert len(str(caught.value)) < 400
    with pytest.raises(UsageError, match="give 1 or more") as caught:
        Key("x\n" * 5000, "n", tokens_per_day=-(10**400))
    assert len(str(caught.value)) < 400

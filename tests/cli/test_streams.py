"""Streams that are full, closed or gone: results that cannot be written are an error, notes are not."""

import io
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from sampan.cli.main import main
from sampan.cli.streams import standard_streams
from sampan.cli.terminal import is_terminal, note, say
from sampan.core.types import ModelFiles

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")

COMMANDS = [
    ["models", "list"],
    ["models", "list", "--json"],
    ["run", "Hi", "--max-tokens", "2"],
    ["run", "Hi", "--max-tokens", "2", "--json"],
    ["keys", "list"],
    ["--help"],
    ["--version"],
]


@pytest.fixture
def shell(sampan: Any) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A command line with its streams as a shell makes them."""

    def run(words: list[str], streams: str, **env: str) -> subprocess.CompletedProcess[str]:
        line = " ".join([*sampan.line(*words), streams])
        return subprocess.run(
            ["sh", "-c", line], env=sampan.env | env, capture_output=True, text=True, timeout=60
        )

    return run


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("streams", [">/dev/full", ">&-", "<&- >&-"])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_results_that_cannot_be_written_are_an_error(
    shell: Any, words: list[str], streams: str, unbuffered: str
) -> None:
    done = shell(words, streams, PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stdout) == (1, "")
    said = "No space left on device" if "full" in streams else "stdout is closed|Bad file descriptor"
    assert re.fullmatch(rf"sampan: .*({said}).*\n", done.stderr)


@pytest.mark.parametrize("streams", ["2>/dev/full", "2>&-"])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_notes_that_cannot_be_written_are_none(shell: Any, words: list[str], streams: str) -> None:
    done = shell(words, streams)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) > 1


@pytest.mark.parametrize("streams", ["2>/dev/full", "2>&-", ">&- 2>&-", ">/dev/full 2>/dev/full"])
def test_an_error_that_cannot_be_told_has_its_exit_code(shell: Any, streams: str) -> None:
    assert shell(["run", "nomodel", "Hi"], streams).returncode == 1
    assert shell(["run", "nomodel", "Hi", "--debug"], streams).returncode == 1
    assert shell(["run", "Hi", "--threads", "100000"], streams).returncode == 2
    warned = shell(["run", "Hi", "--max-tokens", "1", "--threads", "200"], streams)
    assert warned.returncode == int(streams.startswith(">"))


@pytest.mark.parametrize("streams", ["2>/dev/full", "2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_a_service_whose_log_cannot_be_written_serves(
    sampan: Any, default_model: ModelFiles, sampan_home: Path, streams: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["sh", "-c", f'exec "$0" -m sampan serve "$1" --port {port} --context 64 {streams}']
    env = sampan.env | {"SAMPAN_HOME": str(sampan_home)}
    service = subprocess.Popen([*command, sys.executable, str(default_model.path)], env=env)
    try:
        asked = {"model": default_model.path.stem, "prompt": "Hi", "max_tokens": 2}
        for _ in range(3):
            assert _answer(service, f"http://127.0.0.1:{port}/v1/completions", asked).status_code == 200
            assert httpx.get(f"http://127.0.0.1:{port}/nowhere").status_code == 404
        service.terminate()
        assert service.wait(60) == 0
    finally:
        service.kill()
        service.wait()


def _answer(service: subprocess.Popen[bytes], url: str, asked: dict[str, Any]) -> httpx.Response:
    end = time.monotonic() + 60
    while True:
        assert service.poll() is None, "the service has ended"
        try:
            return httpx.post(url, json=asked, timeout=60)
        except httpx.ConnectError:
            assert time.monotonic() < end
            time.sleep(0.1)


class _Broken(io.StringIO):
    def write(self, _text: str) -> int:
        raise OSError(28, "No space left on device")

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", ["none", "broken", "closed"])
def test_saying_something_never_fails(monkeypatch: pytest.MonkeyPatch, stream: str) -> None:
    made = {"none": None, "broken": _Broken(), "closed": io.StringIO()}[stream]
    if made is not None and stream == "closed":
        made.close()
    monkeypatch.setattr(sys, "stderr", made)
    say("hello")
    note("hello")
    assert is_terminal(sys.stderr) == (stream == "broken")
    with standard_streams():
        print("hello", file=sys.stderr, flush=True)
        sys.stderr.writelines(["a", "b"])
    assert sys.stderr is made


def test_results_for_a_stream_that_was_closed_in_this_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], default_model: ModelFiles
) -> None:
    assert default_model.path.is_file()
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    assert main(["models", "list", "--json"]) == 1
    monkeypatch.undo()
    assert capsys.readouterr().err == "sampan: stdout is closed: nothing can be written to it\n"


OPENS = """
from sampan.cli.streams import standard_streams
with standard_streams(), open('/dev/null') as file:
    print(file.fileno() > 2)
"""


def test_no_file_takes_the_place_of_a_closed_stream() -> None:
    line = f'"{sys.executable}" -c "{OPENS}" 2>&- <&-'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n"

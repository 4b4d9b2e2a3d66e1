"""Programs that want to pass without knowing the answer, or to do harm (`attacks.toml`). Each would pass
where its attack succeeds: the right value stands in a file, in the environment, in the memory of who judges
and behind a port of this machine.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sampan.envs.sandbox.sandbox import Sandbox
from sampan.envs.sandbox.verdict import Case, check_calls
from sampan.envs.sandbox.walls import Limits, Mode

RIGHT = 918273
CASES = [Case((3,), RIGHT)]
ATTACKS = tomllib.loads((Path(__file__).parent / "attacks.toml").read_text())
FAILS, ENDS, HANGS = (ATTACKS[kind] for kind in ("fails", "ends", "hangs"))


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server that tells the right value."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n918273")
                    connection.shutdown(socket.SHUT_WR)
                    # What was asked is read: closed before, it would be answered with a reset.
                    while connection.recv(4096):
                        pass

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def impatient(mode: Mode) -> Iterator[Sandbox]:
    with Sandbox(Limits(seconds=0.5, cpu=1), mode=mode) as made:
        assert made.mode == mode  # it starts here, on no program's time
        yield made


def _family(sandbox: Sandbox) -> list[psutil.Process]:
    """The processes behind it."""
    keeper = sandbox._kept()._process
    assert keeper is not None
    process = psutil.Process(keeper.pid)
    return [process, *process.children(recursive=True)]


@pytest.mark.parametrize("name", FAILS)
def test_no_attack_succeeds(
    name: str, sandbox: Sandbox, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "answer"
    secret.write_text(str(RIGHT))
    before = secret.stat()
    monkeypatch.setenv("SAMPAN_TEST_ANSWER", str(RIGHT))
    program = FAILS[name].format(secret=str(secret), folder=str(tmp_path), port=port, parent=os.getpid())
    alive = len(_family(sandbox))
    verdict = check_calls(sandbox, program, "f", CASES)
    assert not verdict.passed, verdict
    assert verdict.status in ("failed", "memory", "crashed"), verdict
    assert verdict.right == 0
    assert list(tmp_path.iterdir()) == [secret]
    assert secret.read_text() == str(RIGHT)
    assert (secret.stat().st_mode, secret.stat().st_mtime) == (before.st_mode, before.st_mtime)
    assert len(_family(sandbox)) == alive  # nobody is left, and the keeper is the same


@pytest.mark.parametrize("name", ENDS)
def test_who_ends_badly_is_told_how(name: str, sandbox: Sandbox) -> None:
    status, program = ENDS[name]["status"], ENDS[name]["program"]
    verdict = check_calls(sandbox, program, "f", CASES)
    assert verdict.status == status, verdict
    assert verdict.reason
    assert check_calls(sandbox, "def f(x): return 918_273", "f", CASES).passed


@pytest.mark.parametrize("name", HANGS)
def test_nobody_goes_on_for_ever(name: str, impatient: Sandbox) -> None:
    alive = len(_family(impatient))
    verdict = check_calls(impatient, HANGS[name], "f", CASES)
    assert verdict.status == "timeout", verdict
    assert len(_family(impatient)) == alive


def test_the_attacks_would_succeed_outside(tmp_path: Path, port: int) -> None:
    """Without walls these programs pass: so they fail for the walls, and not for their own mistakes."""
    secret = tmp_path / "answer"
    secret.write_text(str(RIGHT))
    names = (
        "reads the file", "reads it by a descriptor", "reads it through a link", "links it",
        "reads it from above", "reads it through /proc", "maps it", "reads the environment",
        "reads the judge's environment", "asks a server", "asks a server of the web",
        "asks with a raw call", "sends a datagram", "starts threads", "starts a program",
        "starts processes", "slows the judge", "changes modes", "changes times", "writes outside",
        "lists the folder", "fills the memory with files", "opens everything", "fills the disk",
        "signals the judge by a descriptor", "chooses a descriptor's signal", "writes to the log",
        "limits the judge",
    )  # fmt: skip
    programs = {
        name: FAILS[name].format(secret=str(secret), folder=str(tmp_path), port=port, parent="PARENT")
        for name in names
    }
    code = (
        "import json, os, sys\n"
        "for name, program in json.load(sys.stdin).items():\n"
        "    space = {}\n"
        "    os.path.lexists('a') and os.remove('a')\n"
        "    exec(program.replace('PARENT', str(os.getpid())), space)\n"
        "    print(name, space['f'](3), file=sys.stderr, sep='=')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        input=json.dumps(programs),
        env={"SAMPAN_TEST_ANSWER": str(RIGHT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines() == [f"{name}={RIGHT}" for name in names]


def test_who_computes_too_long_is_told_so(mode: Mode) -> None:
    with Sandbox(Limits(seconds=100, cpu=1), mode=mode) as sandbox:
        verdict = check_calls(sandbox, HANGS["loops"], "f", CASES)
    assert (verdict.status, verdict.reason) == ("timeout", "computed for longer than 1 seconds")

"""The unit file and the container recipe of the docs: what they start serves, and ends well when told to."""

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from sampan.core.types import ModelFiles
from sampan.server.settings import ServeSettings

if TYPE_CHECKING:
    from conftest import Serve

_DOCS = Path(__file__).parents[2] / "docs"
_UNIT = _DOCS / "sampan.service"
_SAMPAN = [sys.executable, "-m", "sampan"]
_NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


def _unit() -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(_UNIT)
    return dict(parser["Service"])


def test_the_unit_serves(serve: "Serve") -> None:
    unit = _unit()
    program, command, model, *options = shlex.split(unit["ExecStart"])
    assert (Path(program).name, command) == ("sampan", "serve")
    assert float(unit["TimeoutStopSec"]) > ServeSettings.drain_s  # else it is killed while it drains
    with serve(*options, name=model) as running:  # its last --port, which is free, counts
        assert running.answers()
        assert json.loads(running.logs[-1])["level"] == "info"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_the_unit_is_one_for_systemd(tmp_path: Path) -> None:
    copy = tmp_path / _UNIT.name
    copy.write_text(_UNIT.read_text().replace(shlex.split(_unit()["ExecStart"])[0], sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60, check=False
    )
    of_ours = [line for line in done.stderr.splitlines() if _UNIT.name in line]
    assert of_ours == []


def _recipe() -> dict[str, str]:
    """The last value of each instruction of the container's last stage."""
    text = (_DOCS / "Containerfile").read_text().replace("\\\n", " ")
    return dict(re.findall(r"^([A-Z]+) (.*)$", text, re.MULTILINE))


@contextmanager
def _first_process(
    command: list[str], home: Path
) -> Iterator[tuple["subprocess.Popen[str]", psutil.Process]]:
    """A command, and its process, as the first one of a namespace, as in a container."""
    environment = {**os.environ, "SAMPAN_HOME": str(home), "SAMPAN_TUNE": "0"}
    with subprocess.Popen(
        [*_NAMESPACE, *command], env=environment, stderr=subprocess.PIPE, text=True
    ) as outer:
        try:
            deadline = time.monotonic() + 20
            while not (found := psutil.Process(outer.pid).children()) and time.monotonic() < deadline:
                time.sleep(0.01)
            yield outer, found[0]
        finally:
            outer.kill()


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*_NAMESPACE, "true"], check=False).returncode != 0,
    reason="needs namespaces of processes",
)
def test_the_container_serves_and_ends_well(default_model: ModelFiles, tmp_path: Path) -> None:
    recipe = _recipe()
    entry, command = json.loads(recipe["ENTRYPOINT"]), json.loads(recipe["CMD"])
    assert entry == ["sampan"]
    assert recipe["ENV"] == f"SAMPAN_HOME={recipe['VOLUME']}"
    database = f"sqlite:///{tmp_path}/sampan.db"  # where SAMPAN_HOME has it
    made = subprocess.run(
        [*_SAMPAN, "keys", "create", "a", "--database", database], capture_output=True, text=True, check=True
    )
    command[command.index("serve") + 1 : 1] = [
        str(default_model.path),
        "--served-name",
        "m",
        "--threads",
        "2",
    ]
    command[command.index("--port") + 1] = "0"
    start = [*_SAMPAN, *command, "--database", database]
    with _first_process(start, tmp_path) as (outer, first), ThreadPoolExecutor(1) as pool:
        assert outer.stderr is not None
        port = next(found[1] for line in outer.stderr if (found := re.search(r"served at .*:(\d+)", line)))
        body = {"model": "m", "prompt": "a", "max_tokens": 100, "ignore_eos": True}
        headers = {"api-key": made.stdout.strip()}
        url = f"http://127.0.0.1:{port}/v1/completions"
        answer = pool.submit(httpx.post, url, json=body, headers=headers, timeout=60)
        time.sleep(0.5)
        first.send_signal(getattr(signal, recipe["STOPSIGNAL"]))
        assert answer.result().json()["usage"]["completion_tokens"] == 100
        assert outer.wait(20) == 0

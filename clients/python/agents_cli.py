"""Codex and Claude Code, run without a terminal: a first request with their real tools, and a second turn.

The model is small: what it says matters not, only that each request is understood and answered."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from steps import KEY, MODEL, URL, check, drive

BIN = Path(os.environ["SAMPAN_NODE"]) / "node_modules" / ".bin"
SETTINGS = """
model = "{model}"
model_provider = "sampan"
approval_policy = "never"
sandbox_mode = "read-only"
[model_providers.sampan]
name = "Sampan"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "SAMPAN_KEY"
request_max_retries = 0
stream_max_retries = 0
"""


def run(folder: Path, *command: str, **environment: str) -> list[dict[str, object]]:
    """The JSON lines that an agent printed, run in an empty folder."""
    place = folder / "work"
    place.mkdir(exist_ok=True)
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=place,
        env={**os.environ, "HOME": str(folder), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    print(done.stdout, done.stderr, file=sys.stderr)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def codex(folder: Path) -> None:
    (folder / "config.toml").write_text(SETTINGS.format(model=MODEL, url=URL))
    for turn in (["Say hello."], ["resume", "--last", "And again."]):
        lines = run(folder, "codex", "exec", "--skip-git-repo-check", "--json", *turn, CODEX_HOME=str(folder))
        check("turn.completed" in [line["type"] for line in lines], lines[-1:])


def claude(folder: Path) -> None:
    place = {"ANTHROPIC_BASE_URL": URL, "ANTHROPIC_API_KEY": KEY, "CLAUDE_CONFIG_DIR": str(folder)}
    quiet = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "400"}
    for turn in (["Say hello."], ["--continue", "And again."]):
        options = ["--model", MODEL, "--output-format", "json", "--max-turns", "2"]
        lines = run(folder, "claude", "-p", *options, *turn, **place, **quiet)
        check(lines and not lines[-1].get("is_error"), lines[-1:])


AGENTS = {"codex": codex, "claude": claude}
name = sys.argv[1]
version = subprocess.run(
    [str(BIN / name), "--version"], capture_output=True, text=True, check=True
).stdout.strip()


def first_request_and_second_turn() -> None:
    with tempfile.TemporaryDirectory() as folder:
        AGENTS[name](Path(folder))


drive(version, first_request_and_second_turn)

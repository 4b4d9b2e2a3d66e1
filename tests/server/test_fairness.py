"""One key's flood does not hold up another's request; priorities and the ledger, end to end."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from conftest import Running, Serve


def _key(name: str, database: str, *options: str) -> str:
    words = ["keys", "create", name, "--database", database, *options, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "sampan", *words], capture_output=True, text=True, check=True
    )
    return str(json.loads(done.stdout)["key"])


def _ask(running: "Running", key: str, tokens: int) -> float:
    """When the answer had come."""
    body: Any = {
        "model": running.model,
        "messages": [{"role": "user", "content": "Tell a story."}],
        "max_tokens": tokens,
        "ignore_eos": True,
    }
    headers = {"authorization": f"Bearer {key}"}
    answer = httpx.post(f"{running.url}/v1/chat/completions", json=body, headers=headers, timeout=120)
    assert answer.status_code == 200
    return time.monotonic()


def test_a_flood_waits_for_itself(serve: "Serve", tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'keys.db'}"
    greedy, modest = _key("greedy", database), _key("modest", database)
    first = _key("first", database, "--priority", "-1")
    with serve("--database", database, "--max-sequences", "2") as running, ThreadPoolExecutor(26) as clients:
        flood = [clients.submit(_ask, running, greedy, 40) for _ in range(24)]
        time.sleep(0.5)
        small = [clients.submit(_ask, running, modest, 10), clients.submit(_ask, running, first, 10)]
        answered = sorted(future.result() for future in flood)
        for future in small:
            assert future.result() < answered[12]
        usage = httpx.get(f"{running.url}/v1/usage", headers={"authorization": f"Bearer {modest}"}).json()
        assert usage["total"]["completion_tokens"] == 10
    words = ["keys", "usage", "--database", database, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "sampan", *words], capture_output=True, text=True, check=True
    )
    rows = {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert rows["greedy"]["completion_tokens"] == 24 * 40
    assert rows["modest"]["completion_tokens"] == 10


def test_a_database_without_keys_asks_for_none(serve: "Serve", tmp_path: Path) -> None:
    with serve("--database", f"sqlite:///{tmp_path / 'usage.db'}") as running:
        assert httpx.get(f"{running.url}/v1/models").status_code == 200


@pytest.mark.parametrize("url", ["mysql://localhost/x", "sqlite:////proc/none/x.db"])
def test_a_database_that_cannot_be_used_is_told_at_the_start(url: str) -> None:
    words = [sys.executable, "-m", "sampan", "serve", "--port", "0", "--database", url]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (1, 2)
    assert len(done.stderr.strip().splitlines()) == 1

"""Answers that were computed before, by an exact key: a row's bits depend on the row alone, so the same
weights give the same answer to the same prompt with the same sampling, and it need not be computed again."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

from sampan.core.errors import StorageError, shortened
from sampan.core.types import SamplingParams
from sampan.evals.asker import Answered

NUMERICS = 1
"""Of what the kernels compute: one more whenever any of its bits change."""

_TABLE = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID"


class KeptAnswers:
    """In an SQLite file, which several runs may use at once. Answers that cannot be repeated (sampled without
    a seed) have no key."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._open()) as file:
                file.execute("PRAGMA journal_mode=WAL")
                file.execute(_TABLE)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(
                f"{shortened(path)}: cannot be opened: {error} (--fresh does without)"
            ) from error

    def key(self, identity: str, prompt: Sequence[int], sampling: SamplingParams) -> str | None:
        """Of the weights, the prompt's ids and the sampling; None where the answer is another each time."""
        if sampling.temperature > 0 and sampling.seed is None:
            return None
        if sampling.temperature == 0:
            sampling = replace(sampling, seed=None)
        how = {**asdict(sampling), "logit_bias": sorted(sampling.logit_bias.items())}
        said = json.dumps([NUMERICS, identity, list(prompt), how], sort_keys=True)
        return sha256(said.encode()).hexdigest()

    def get(self, key: str) -> Answered | None:
        """What was computed, told to be kept."""
        try:
            with closing(self._open()) as file:
                found = file.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise StorageError(
                f"{shortened(self._path)}: cannot be read: {error} (--fresh does without)"
            ) from error
        return None if found is None else replace(Answered(**json.loads(found[0])), kept=True)

    def put(self, key: str, answer: Answered) -> None:
        """For later runs."""
        try:
            with closing(self._open()) as file, file:
                file.execute(
                    "INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(asdict(answer)))
                )
        except sqlite3.Error as error:
            raise StorageError(
                f"{shortened(self._path)}: cannot be written: {error} (--fresh does without)"
            ) from error

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=30)

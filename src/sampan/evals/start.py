"""What a run is begun with, and whose weights answer."""

import json
import os
import platform
import re
import time
from dataclasses import asdict
from hashlib import file_digest, sha256
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, count
from pathlib import Path

from sampan.core.errors import UsageError
from sampan.core.rows import write_text
from sampan.core.types import ModelFiles
from sampan.evals.benchmark import Benchmark
from sampan.evals.run import Plan
from sampan.evals.sample import RunFacts, RunFolder, Sample, TaskFacts

_RUNS = Path("evals")
_PART = re.compile(r"-\d{5}-of-")
_PACKAGES = ("sampan", "numpy", "tokenizers", "llguidance", "reasoning-gym", "math-verify", "scipy")


def facts_of(plan: Plan, *, model: str, weights: str) -> RunFacts:
    """`weights`: see `RunFacts`."""
    tasks = tuple(
        TaskFacts(
            task.name, _key(task), task.about.source, task.about.licence, task.about.version, len(problems),
            "likelihood" if plan.likelihood else "answer",
        )
        for task, problems in zip(plan.tasks, plan.problems, strict=True)
    )  # fmt: skip
    asked = {
        "sampling": {**asdict(plan.sampling), "logit_bias": dict(plan.sampling.logit_bias)},
        "samples": plan.samples,
        "seed": plan.seed,
        "max_tokens": plan.max_tokens,
        "system": plan.system,
        "problems": sha256("".join(each.key for own in plan.problems for each in own).encode()).hexdigest(),
    }
    # As it is read back.
    return RunFacts(model, weights, tasks, json.loads(json.dumps(asked)), _made_with(), time.time())


def _key(task: Benchmark) -> str:
    """A hash of what a task asks and how it checks."""
    return sha256(f"{task.name}\0{task.about.version}".encode()).hexdigest()[:16]


def opened(facts: RunFacts, out: Path | None, *, resume: bool) -> tuple[RunFolder, RunFacts, list[Sample]]:
    """A run's folder, what it was begun with, and the answers that are in it. Without `out` it is a new one,
    or the newest of the same run that has not come to its end. Raises `UsageError` for a folder that has
    another run."""
    if not resume:
        folder = RunFolder(out or _new(facts))
        if folder.exists:
            raise UsageError(f"{folder.path}: has a run: go on with it (--resume), or give another --out")
        folder.begin(facts)
        return folder, facts, []
    folder = RunFolder(out or _newest(facts))
    before = folder.facts()
    if before.digest != facts.digest:
        raise UsageError(f"{folder.path}: has a run of another model, of other tasks, or with other options")
    return folder, before, folder.cut()


def _new(facts: RunFacts) -> Path:
    name = re.sub(r"[^\w.-]+", "-", facts.model).strip("-.")[-60:]
    begun = f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(facts.started))}"
    names = chain([begun], (f"{begun}-{at}" for at in count(2)))
    return next(path for path in map(_RUNS.joinpath, names) if not path.exists())


def _newest(facts: RunFacts) -> Path:
    runs = [RunFolder(path.parent) for path in _RUNS.glob("*/run.json")]
    found = [(run.facts(), run.path) for run in runs]
    same = [
        (each.started, path) for each, path in found if each.digest == facts.digest and each.ended is None
    ]
    if not same:
        raise UsageError(f"--resume: no such run in {_RUNS} waits for its end: give its folder (--out)")
    return max(same)[1]


def weights_of(files: ModelFiles, home: Path, *more: str) -> str:
    """A hash of a model's files, kept in `home` by their sizes and times; `more`: what else the bits depend
    on."""
    if files.path.is_dir():
        paths = sorted(files.path.rglob("*"))
    else:
        split = _PART.sub("-*-of-", files.path.name)
        paths = sorted(files.path.parent.glob(split)) if split != files.path.name else [files.path]
    hashes = [_hash(path, home) for path in paths if path.is_file() and _counts(path)]
    return sha256("\0".join([*hashes, *more]).encode()).hexdigest()[:32]


def _counts(path: Path) -> bool:
    return path.suffix in (".gguf", ".safetensors", ".json", ".jinja", ".model", ".txt")


def _hash(path: Path, home: Path) -> str:
    found = path.stat()
    known = home / "hashes" / sha256(os.fsencode(path.resolve())).hexdigest()
    state = f"{found.st_size} {found.st_mtime_ns} {found.st_ino}"
    if known.is_file():
        kept, _, digest = known.read_text().rpartition(" ")
        if kept == state:
            return digest
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    known.parent.mkdir(parents=True, exist_ok=True)
    write_text(known, f"{state} {digest}")
    return digest


def _made_with() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

"""Benchmarks by name, as `sampan eval --tasks` gives them: those that packages carry, and every task of
`envs` by the name that it has there."""

from collections.abc import Mapping
from difflib import get_close_matches

from sampan.catalog.progress import Progress
from sampan.core.errors import UsageError, quoted
from sampan.core.settings import Settings
from sampan.envs.named import NAMES as ENVS
from sampan.envs.named import task_of
from sampan.evals.benchmark import Benchmark
from sampan.evals.tasks.aime25 import Aime25
from sampan.evals.tasks.corr2cause import Corr2Cause
from sampan.evals.tasks.gpqa_diamond import GpqaDiamond
from sampan.evals.tasks.gsm8k import Gsm8k
from sampan.evals.tasks.hellaswag import HellaSwag
from sampan.evals.tasks.humaneval import HumanEval
from sampan.evals.tasks.jee_math import JeeMath
from sampan.evals.tasks.logiqa import LogiQa
from sampan.evals.tasks.packaged import Packaged
from sampan.evals.tasks.pararule_plus import PararulePlus
from sampan.evals.tasks.quartz import Quartz
from sampan.evals.tasks.socialiqa import SocialIqa
from sampan.evals.tasks.supergpqa import SuperGpqa
from sampan.evals.tasks.tomi import ToMi
from sampan.evals.tasks.truthfulqa import TruthfulQa
from sampan.evals.tasks.wrapped import Wrapped

PACKAGED: Mapping[str, type[Packaged]] = {
    each.name: each
    for each in (
        Gsm8k, HumanEval, HellaSwag, TruthfulQa, GpqaDiamond, SuperGpqa, Aime25, JeeMath, LogiQa,
        PararulePlus, Corr2Cause, Quartz, SocialIqa, ToMi,
    )
}  # fmt: skip

_ENVS = {
    "hans": "whether a sentence follows from another, which shares its words",
    "syllogism": "whether a statement follows from two or three others",
    "programs": "small functions in Python, which are run",
    "gym:TASK": "any task of reasoning-gym, such as gym:chain_sum",
    "file:TASK.py": "what a class of your own asks",
    "jsonl:DATA.jsonl": "what a file of your own asks, all of it",
    "humaneval:DATA.jsonl": "the programs of a file as HumanEval has them, all of it",
}

LISTED: Mapping[str, str] = {name: f"{each.size:,} {each.line}" for name, each in PACKAGED.items()} | _ENVS
"""Every name with what it asks, in a line."""

NAMES = tuple(LISTED)
_KINDS = frozenset(name.partition(":")[0] for name in ENVS)


def benchmark_of(name: str, settings: Settings | None = None, progress: Progress | None = None) -> Benchmark:
    """`progress`: of what has to be fetched. Raises `UsageError` for what there is not, with the names that
    are near, and for options that are not obeyed."""
    if name in PACKAGED:
        return PACKAGED[name](settings, progress)
    place, _, options = name.partition("?")
    if place in PACKAGED and options:
        raise UsageError(f"task {quoted(name)}: {place} has no options")
    kind, _, what = place.partition(":")
    if kind not in _KINDS:
        raise UsageError(f"task {quoted(name)}: there is none of this name{_near(kind, NAMES)}")
    try:
        return Wrapped(name, task_of(name))
    except UsageError as error:
        if kind == "gym" and what and (near := _near_in_gym(what)):
            raise UsageError(f"{error}{near}") from error
        raise


def benchmarks_of(
    names: str, settings: Settings | None = None, progress: Progress | None = None
) -> tuple[Benchmark, ...]:
    """Of names with commas between them; those within brackets and quotes belong to an option's value. Raises
    `UsageError` (see `benchmark_of`), also for a name that is there twice."""
    found = _parted(names)
    for at, name in enumerate(found):
        if name in found[:at]:
            raise UsageError(f"tasks: {quoted(name)} is there twice")
    if not found:
        raise UsageError("tasks: there is none: give names with commas between them")
    return tuple(benchmark_of(name, settings, progress) for name in found)


def _parted(names: str) -> list[str]:
    parts, depth, within = [""], 0, False
    for sign in names:
        within ^= sign == '"'
        depth += (sign in "[{") - (sign in "]}")
        if sign == "," and not within and depth <= 0:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts if part.strip()]


def _near(name: str, names: "list[str] | tuple[str, ...]") -> str:
    near = get_close_matches(name.lower(), names, 3, 0.6)
    return f"; near: {', '.join(near)}" if near else f"; there is {', '.join(names)}"


def _near_in_gym(what: str) -> str:
    from reasoning_gym.factory import DATASETS

    return "" if what in DATASETS else _near(what, sorted(DATASETS))

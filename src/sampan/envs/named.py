"""Tasks by name, as a command line gives them: `gym:chain_sum?min_terms=2`, `hans`, `syllogism?premises=3`,
`file:my_task.py`, `jsonl:data.jsonl?checker=number`. Behind the question mark stand options, `&` between
them, each value as JSON or as it is (`hint` always as it is)."""

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from sampan.core.errors import UsageError, quoted
from sampan.envs.gym import GymTask
from sampan.envs.inference.hans import Hans
from sampan.envs.inference.syllogisms import Syllogisms
from sampan.envs.lines import Lines
from sampan.envs.own import task_in
from sampan.envs.program_file import ProgramFile
from sampan.envs.programs import KINDS, Programs
from sampan.envs.task import Task

_MADE: Mapping[str, Callable[..., Task]] = {
    "hans": Hans,
    "programs": lambda kinds=KINDS, hint="", partial=False: Programs(kinds, hint, partial=partial),
    "syllogism": Syllogisms,
}
_OF: Mapping[str, Callable[..., Task]] = {
    "gym": GymTask,
    "file": lambda path, **options: task_in(Path(path), **options),
    "humaneval": lambda path: ProgramFile(path),
    "jsonl": lambda path, checker="text", hint="": Lines(Path(path), checker, hint),
}
NAMES = (*_MADE, "gym:TASK", "file:TASK.py", "jsonl:DATA.jsonl", "humaneval:DATA.jsonl")


def task_of(name: str) -> Task:
    """Raises `UsageError` for what there is not, and for options that are not obeyed."""
    place, _, told = name.partition("?")
    kind, colon, what = place.partition(":")
    options = _options(name, told)
    make: Callable[..., Task]
    given: tuple[str, ...]
    if colon and what and kind in _OF:
        make, given = _OF[kind], (what,)
    elif not colon and kind in _MADE:
        make, given = _MADE[kind], ()
    else:
        raise UsageError(f"task {quoted(name)}: there is {', '.join(NAMES)}")
    try:
        inspect.signature(make).bind(*given, **options)
    except TypeError as error:
        raise UsageError(f"task {quoted(name)}: {error}") from error
    return make(*given, **options)


def _options(name: str, told: str) -> dict[str, Any]:
    try:
        pairs = parse_qsl(told, keep_blank_values=True, strict_parsing=bool(told))
    except ValueError as error:
        raise UsageError(f"task {quoted(name)}: options are name=value, with & between them") from error
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise UsageError(f"task {quoted(name)}: gives {key} twice")
        found[key] = value if key == "hint" else _value(value)
    return found


def _value(text: str) -> Any:
    """Lists as tuples, which options are by default."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return tuple(value) if isinstance(value, list) else value

"""Settings read from the environment, once, by whoever starts a command."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

from sampan.core.errors import UsageError, quoted

_MOST_THREADS = 256  # or four for every core, where there are so many
_YES, _NO = frozenset(("1", "true", "yes", "on")), frozenset(("0", "false", "no", "off"))
EXPERT_READING = frozenset(("read-ahead", "second-reader", "frequency", "direct"))
"""How experts are read from disk: the next layer's before they are asked for, by two threads, those staying
that were used often and not only lately, and past the page cache."""


@dataclass(frozen=True)
class Settings:
    """`home`: the cache folder. `isa`: forced kernel level or None. `threads`: None lets the machine decide.

    `hf_endpoint`: another hub than the default. `hf_cache`: the hub client's cache, never written. `tune`:
    measure at a model's first load what is fastest, and use what was measured. `experts_without`: what
    reading experts from disk does without, for measurements alone; words of `EXPERT_READING`.
    """

    home: Path
    isa: str | None = None
    threads: int | None = None
    offline: bool = False
    hf_token: str | None = None
    hf_endpoint: str | None = None
    hf_cache: Path | None = None
    tune: bool = True
    experts_without: frozenset[str] = frozenset()

    @classmethod
    def from_env(cls, env: dict[str, str] | None = None) -> "Settings":
        """Read `SAMPAN_HOME`, `_ISA`, `_THREADS`, `_OFFLINE`, `_TUNE` and `_EXPERTS_WITHOUT`, and the hub's
        `HF_*`.

        `UsageError` for what makes no sense.
        """
        values = dict(os.environ) if env is None else env
        return cls(
            home=_folder(values, "SAMPAN_HOME") or _default_home(),
            isa=values.get("SAMPAN_ISA") or None,
            threads=_threads(values.get("SAMPAN_THREADS")),
            offline=_flag(values, "SAMPAN_OFFLINE", False) or _hub_flag(values.get("HF_HUB_OFFLINE")),
            hf_token=values.get("HF_TOKEN") or None,
            hf_endpoint=values.get("HF_ENDPOINT") or None,
            hf_cache=_hf_cache(values),
            tune=_flag(values, "SAMPAN_TUNE", True),
            experts_without=_words(values, "SAMPAN_EXPERTS_WITHOUT", EXPERT_READING),
        )


def family_files(env: Mapping[str, str] | None = None) -> tuple[Path, ...]:
    """`SAMPAN_FAMILIES`: files with model families of one's own, apart as in `PATH`; absolute, each once."""
    given = (os.environ if env is None else env).get("SAMPAN_FAMILIES", "")
    paths = [path for path in given.split(os.pathsep) if path]
    try:
        return tuple(dict.fromkeys(Path(path).expanduser().resolve() for path in paths))
    except (OSError, RuntimeError) as error:
        raise UsageError(f"SAMPAN_FAMILIES is {quoted(given)}: give paths of Python files") from error


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def whole_number(name: str, value: object, least: int, most: int) -> int:
    """The option `name` as a whole number in these bounds; `UsageError` for anything else."""
    if isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= most:
        return int(value)
    raise UsageError(f"{name} is {quoted(value)}: give a whole number from {least} to {most}")


def checked_threads(threads: object, name: str = "threads") -> int:
    """A number of threads that makes sense; `UsageError` for any other."""
    return whole_number(name, threads, 1, max(_MOST_THREADS, 4 * available_cores()))


def _flag(values: dict[str, str], name: str, default: bool) -> bool:
    word = values.get(name, "").strip().lower()
    if word and word not in _YES | _NO:
        # Nobody may be online who believes to be offline.
        raise UsageError(f"{name} is {quoted(values[name])}: give 1 or 0")
    return word in _YES if word else default


def _words(values: dict[str, str], name: str, known: frozenset[str]) -> frozenset[str]:
    """Some of the known words, apart by commas."""
    given = frozenset(word.strip() for word in values.get(name, "").split(",") if word.strip())
    if given - known:
        raise UsageError(f"{name} is {quoted(values[name])}: give some of {', '.join(sorted(known))}")
    return given


def _hub_flag(value: str | None) -> bool:
    # As the hub's client reads it, where any other word means no.
    return (value or "").strip().lower() in _YES


def _threads(value: str | None) -> int | None:
    if not value:
        return None
    number = value.strip()
    return checked_threads(int(number) if re.fullmatch("[0-9]{1,9}", number) else value, "SAMPAN_THREADS")


def _folder(values: dict[str, str], name: str) -> Path | None:
    if not values.get(name):
        return None
    try:
        return Path(values[name]).expanduser()
    except RuntimeError:  # ~NAME of somebody unknown
        raise UsageError(f"{name} is {quoted(values[name])}: there is no such home folder") from None


def _default_home() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("sampan"))


def _hf_cache(values: dict[str, str]) -> Path | None:
    # The order of huggingface_hub/constants.py, which is too slow to import for this.
    for name, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if found := _folder(values, name):
            return found / below
    try:
        return Path(values.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"
    except RuntimeError:  # nobody's home is known
        return None

"""What a short measurement chooses for a model on a machine: how it is chosen, and where it is kept.

The choices are functions of times that `trial.py` takes. A value that is not the default must be faster by
more than 3%: noise chooses nothing. None of them changes a bit of any answer.

A tuning is kept in HOME/tuning/HASH.json under the hash of everything that it depends on. A file that cannot
be read or written is never an error: the measurement takes its place.
"""

import hashlib
import json
import math
import os
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sampan.core.settings import available_cores
from sampan.kernels import backend
from sampan.kernels.cpu import _native  # type: ignore[attr-defined]
from sampan.kernels.cpu.plan import Plan
from sampan.kernels.tensors import TensorInfo, Tensors

Seconds = Mapping[int, float]
"""Times of candidates; empty where there was no time to take them, and the default stays."""

CHUNKS = (128, 256, 512)
BLOCKS = (64, 128, 256, 512)
DIRECT = (2, 4, 6, 8, 12, 16)

_MARGIN = 0.03
_PATIENCE = 0.5  # seconds that a chunk may take where a smaller one is as fast
_HOLDS = 0.9  # how often a drafted token holds in a text that repeats another; `lookup.py` drafts little else
_PAYS = 1.5  # times as many tokens a second there: 4 rows for the time of 2.3


@dataclass(frozen=True, kw_only=True)
class Tuning(backend.Tuning):
    """`huge_pages`: asked for large pieces of memory. `direct_rows`: up to which packed weights are read in
    place, not unpacked first. `row_block`: rows that share unpacked weights."""

    huge_pages: bool = True
    direct_rows: int = 8
    row_block: int = 256


DEFAULT = Tuning(threads=1)


def choose_threads(most: int, decode: Seconds, prompt: Seconds) -> int:
    """Fewer than `most` where that is faster; decoding and prompts weigh alike."""
    return _clear_winner({count: math.sqrt(decode[count] * prompt[count]) for count in decode}, most)


def choose_huge_pages(with_them: float, without: float) -> bool:
    """By bytes read a second: off where that is faster by more than 5%."""
    return without <= 1.05 * with_them


def choose_direct_rows(direct: Seconds, unpacked: Seconds) -> int:
    """The last row count to read weights in place for: the one that saves most over all that it decides."""
    default = DEFAULT.direct_rows
    direct, unpacked = _settled(direct), _settled(unpacked)
    gains = {default: 0.0}
    for rows in (1, *direct):
        low, high = sorted((rows, default))
        changed = [math.log(unpacked[n] / direct[n]) for n in direct if low < n <= high]
        gain = sum(changed) if rows > default else -sum(changed)
        if changed and gain > -math.log(1 - _MARGIN) * len(changed):
            gains[rows] = gain
    return max(gains, key=gains.__getitem__)


def choose_row_block(times: Seconds) -> int:
    """The fastest."""
    return _clear_winner(times, DEFAULT.row_block)


def choose_chunk_rows(times: Seconds, layers: float) -> int:
    """The longest chunk that is done soon enough for others who wait for it, of those whose time a row is
    within 3% of the best; without one, the smallest.

    `times`: of a part of the model, of which the whole has `layers` times as many.
    """
    each = {rows: seconds / rows for rows, seconds in times.items()}
    near = [rows for rows in each if each[rows] <= (1 + _MARGIN) * min(each.values())]
    soon = [rows for rows in near if times[rows] * layers <= _PATIENCE]
    return max(soon, default=min(near, default=DEFAULT.chunk_rows))


def choose_draft_rows(times: Seconds) -> int:
    """The rows that give most tokens a second where a draft is likely to hold; 0 where it hardly pays.

    `times`: of steps with all rows sampled, one row among them. Of n rows those count whose predecessors
    held: (1 - p^n) / (1 - p) on average.
    """
    if 1 not in times:
        return DEFAULT.draft_rows
    times = _settled(times)
    gains = {n: (1 - _HOLDS**n) / (1 - _HOLDS) * times[1] / times[n] for n in times if n > 2}
    best = max(gains.values(), default=0.0)
    near = [n for n in gains if gains[n] >= (1 - _MARGIN) * best]
    return min(near) if best >= _PAYS else 0


def _clear_winner(times: Seconds, default: int) -> int:
    best = min(times, key=times.__getitem__, default=default)
    return best if best != default and times[best] < (1 - _MARGIN) * times[default] else default


def _settled(times: Seconds) -> Seconds:
    """Times by rows, where a step has taken no longer than one of more rows: disturbances only add to it."""
    settled: dict[int, float] = {}
    least = math.inf
    for rows in sorted(times, reverse=True):
        settled[rows] = least = min(least, times[rows])
    return settled


def machine_print(isa: str) -> dict[str, Any]:
    """What a tuning depends on besides the model and the threads asked for. `build`: of the kernels."""
    file = Path(_native.__file__).stat()
    build = f"{file.st_size} bytes, {int(file.st_mtime)}"
    return {"processor": processor(), "cores": available_cores(), "isa": isa, "build": build}


def fingerprint(plan: Plan, tensors: Tensors, isa: str, cache: str, threads: int | None) -> dict[str, Any]:
    """All that a tuning depends on. `cache`: the KV cache's type; `threads`: None where nobody asked."""
    kinds: Counter[str] = Counter()
    for name, segment in plan.segments.items():
        packed = tensors.packed.get(name)
        kind = f"packed {packed.store} {packed.group}" if packed else _kind(tensors.info(name))
        kinds[f"{segment.n} x {segment.k} {kind}"] += 1
    heads = Counter(f"{a.heads} / {a.kv_heads} x {a.key_size}, {a.value_size}" for a in plan.attentions)
    return {
        "machine": machine_print(isa),
        "model": {"matrices": dict(sorted(kinds.items())), "attention": dict(sorted(heads.items()))},
        "cache": cache,
        "threads": threads,
    }


def _kind(info: TensorInfo) -> str:
    form = info.form
    return info.type.name if form is None else f"{info.type.name} {form.bits} {form.group}"


def processor() -> str:
    """The processor's name, as Linux gives it; otherwise its architecture."""
    try:
        with Path("/proc/cpuinfo").open() as lines:
            names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
            return next(names, platform.machine())
    except OSError:
        return platform.machine()


def read(home: Path, subject: Mapping[str, Any], threads: int) -> Tuning | None:
    """What was chosen for this fingerprint, where it can be read and makes sense for `threads`."""
    found = _parse(_place(home, subject))
    if found is None or found["subject"] != subject:
        return None
    tuning = Tuning(**found["tuning"])
    return tuning if tuning.threads in thread_counts(subject["threads"], threads) else None


def write(home: Path, subject: Mapping[str, Any], model: str, tuning: Tuning) -> None:
    """Keep it, if that is possible, in one rename. `model`: for people to read."""
    import tempfile

    place = _place(home, subject)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"name": model, "tuning": asdict(tuning), "subject": subject}, indent=1)
        descriptor, name = tempfile.mkstemp(dir=place.parent, prefix=place.stem, suffix=".part")
    except OSError:
        return
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(place)
    except OSError:
        Path(name).unlink(missing_ok=True)


def stored(home: Path, machine: Mapping[str, Any]) -> Iterator[tuple[str, str, Tuning]]:
    """Every tuning of this machine, with its model's name and type of cache, by name."""
    parsed = filter(None, map(_parse, sorted((home / "tuning").glob("*.json"))))
    mine = [each for each in parsed if each["subject"]["machine"] == machine]
    for each in sorted(mine, key=lambda found: (found["name"], found["subject"]["cache"])):
        yield each["name"], each["subject"]["cache"], Tuning(**each["tuning"])


def thread_counts(asked: int | None, available: int) -> tuple[int, ...]:
    """Candidates, the default first: as asked; otherwise all, or half of them, where two cores may share."""
    return (available,) if asked or available < 4 else (available, available // 2)


def _place(home: Path, subject: Mapping[str, Any]) -> Path:
    text = json.dumps(subject, sort_keys=True)
    return home / "tuning" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def _parse(path: Path) -> dict[str, Any] | None:
    """A file's content, or None for one that no `write` has made."""
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        subject, tuning = found["subject"], found["tuning"]
        texts = [found["name"], subject["cache"]]
        sound = all(isinstance(text, str) for text in texts) and isinstance(subject["machine"], dict)
        return found if sound and _sound(tuning) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _sound(values: Mapping[str, Any]) -> bool:
    """Every field there, of its type, and with a value that could have been chosen."""
    expected = {field.name: type(getattr(DEFAULT, field.name)) for field in fields(Tuning)}
    return (
        {name: type(value) for name, value in values.items()} == expected
        and values["threads"] >= 1
        and values["direct_rows"] in (1, *DIRECT)
        and values["row_block"] in BLOCKS
        and values["chunk_rows"] in CHUNKS
        and values["draft_rows"] in (0, *DIRECT)
    )

"""What was answered to each problem of a measurement: `tests-STAGE-STEP.jsonl` beside the log.

They are what makes two measurements comparable problem by problem, and what a report shows side by side.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sampan.core.errors import SampanError, shortened
from sampan.core.rows import write_lines

_NAME = re.compile(r"tests-(\d+)-(\d+)\.jsonl")


@dataclass(frozen=True)
class Measured:
    """A problem of the test `test`, known by its `key`, and what its answer earned."""

    test: str
    key: str
    question: str
    answer: str
    reward: float
    tokens: int


def keep(folder: Path, stage: int, step: int, found: Sequence[Measured]) -> None:
    """Of one test; those of other tests after the same step stay. The file is there whole or not at all."""
    path = _place(folder, stage, step)
    names = {each.test for each in found}
    others = [each for each in _read(path) if each.test not in names] if path.exists() else []
    write_lines(path, [asdict(each) for each in (*others, *found)])


def kept(folder: Path, stage: int, step: int, test: str) -> Mapping[str, Measured]:
    """Of one test by the problems' keys; none where the file is gone."""
    path = _place(folder, stage, step)
    return {each.key: each for each in _read(path) if each.test == test} if path.exists() else {}


def remove_later(folder: Path, stage: int, step: int) -> None:
    """Files of measurements behind this step, which a run that goes on there makes again."""
    for path in folder.glob("tests-*-*.jsonl"):
        if (match := _NAME.fullmatch(path.name)) and (int(match[1]), int(match[2])) > (stage, step):
            path.unlink()


def _place(folder: Path, stage: int, step: int) -> Path:
    return folder / f"tests-{stage}-{step}.jsonl"


def _read(path: Path) -> Iterator[Measured]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            yield Measured(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise SampanError(f"{shortened(path)}: line {number} is no answer to a test: {error}") from error

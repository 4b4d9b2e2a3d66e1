"""What a run was made with: what another machine, or another day, would need to have it again. It is in
`run.json` beside the log."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sampan.core.errors import SampanError, shortened
from sampan.core.rows import write_text

_FILE = "run.json"


@dataclass(frozen=True)
class About:
    """`recipe`: its name, `text`: of its file. `stages`: what each is and how many steps it has. `starts`:
    when the run was begun and gone on with, `ended`: when it came to its end, in seconds since 1970.
    `licence`: of the model that was trained, by the name that hubs have for it, as far as it is known.
    `sources`: see `Recipe`."""

    recipe: str
    text: str
    model: str
    seed: int
    stages: tuple[tuple[str, int], ...]
    versions: dict[str, str]
    machine: dict[str, str]
    starts: tuple[float, ...]
    ended: float | None = None
    licence: str | None = None
    sources: tuple[str, ...] = ()


def write_about(folder: Path, about: About) -> None:
    """Whole, or not at all."""
    write_text(folder / _FILE, json.dumps(asdict(about), indent=1) + "\n")


def read_about(folder: Path) -> About | None:
    """Of the run in `folder`; None where there is none."""
    path = folder / _FILE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found |= {"stages": tuple(map(tuple, found["stages"])), "starts": tuple(found["starts"])}
        found["sources"] = tuple(found["sources"])
        return About(**found)
    except (ValueError, TypeError, KeyError) as error:
        raise SampanError(f"{shortened(path)}: does not say what a run was begun with: {error}") from error

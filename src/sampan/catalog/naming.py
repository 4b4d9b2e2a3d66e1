"""What clients of a service call its model, unless it is told otherwise."""

import os
import re
from pathlib import Path

from sampan.catalog.catalog import find
from sampan.catalog.source import parse_source

_PART = re.compile(r"-\d{5}-of-\d{5}$")


def served_name(model: str) -> str:
    """MODEL as it was given; of a path only what names the model: where it lies is nobody's business.

    That is a folder's name or a file's without its ending, or ORG/NAME in the hub client's cache.
    """
    if find(model) is not None or parse_source(model) is not None:
        return model
    path = Path(os.path.abspath(Path(model).expanduser()))  # noqa: PTH100 - a link keeps its own name
    for folder in path.parents:
        if folder.name == "snapshots" and folder.parent.name.startswith("models--"):
            return folder.parent.name.removeprefix("models--").replace("--", "/", 1)
    return _PART.sub("", path.stem) if path.suffix == ".gguf" else path.name

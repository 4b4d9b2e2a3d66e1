"""The GGUF models among the files of a repository, by the quantisation that their names tell.

`Model-Q4_K_M.gguf`, `model.q8_0.gguf`, `UD-IQ2_XXS/Model-00001-of-00003.gguf`: the last such word of a path.
"""

import re

from sampan.catalog.source import QUANTISATION, split_parts
from sampan.core.errors import ModelNotFound, quoted

_WORD = re.compile(rf"(?:^|[-._/])({QUANTISATION})(?=[-._/])", re.IGNORECASE)
_BESIDE = ("mmproj", "imatrix")  # encoders of pictures, and what a quantiser was told: no models


def label(name: str) -> str:
    """The quantisation that a file's name tells, in capitals; "" where it tells none."""
    found = _WORD.findall(split_parts(name)[0])
    return found[-1].upper() if found else ""


def choose(names: list[str], wanted: str, where: str) -> str:
    """The file, of a split model the first, that has this quantisation; `ModelNotFound` where none or several
    have it. Without one that is called so, `UD-` (Unsloth's) before the name is passed over."""
    firsts = sorted({split_parts(name)[0] for name in names if name.endswith(".gguf")})
    labels = {name: label(name) for name in firsts if not _is_beside(name)}
    found = [name for name, own in labels.items() if own == wanted]
    found = found or [name for name, own in labels.items() if own.removeprefix("UD-") == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelNotFound(
            f"{where}: {len(found)} models have the quantisation {wanted}: choose one with "
            f"hf:ORG/NAME:FILE: {', '.join(found)}"
        )
    others = sorted(set(labels.values()) - {""})
    there = f"there are {', '.join(others)}" if others else f"its files tell none: {', '.join(labels)}"
    if not labels:
        there = "it has no .gguf files"
    raise ModelNotFound(f"{where}: no model has the quantisation {quoted(wanted)}: {there}")


def _is_beside(name: str) -> bool:
    return any(word in name.rpartition("/")[2].lower() for word in _BESIDE)

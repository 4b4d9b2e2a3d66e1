"""What two machines must have in common so that their answers are the same bits."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path

import numpy as np

from sampan import __version__
from sampan.core.types import ModelFiles
from sampan.llm.model import LLM

_PROBED = 64  # tokens: two pages of the cache
_READ = (".json", ".safetensors", ".model", ".txt", ".jinja")


@dataclass(frozen=True)
class Numerics:
    """`sampan`: its version. `files`: a hash of the model's. `probe`: of the probabilities, to the last bit,
    that the engine gives the tokens of a fixed text, which speaks for its kernels, cache and processor."""

    sampan: str
    files: str
    probe: str

    @classmethod
    def of(cls, llm: LLM) -> "Numerics":
        """Reads the model's files once and scores 64 tokens."""
        ids = [place * 7919 % llm.config.vocab for place in range(_PROBED)]
        logprobs = np.array(llm.score(ids).logprobs[1:], "<f8")
        return cls(__version__, digest(llm.files), sha256(logprobs.tobytes()).hexdigest())

    def unlike(self, other: "Numerics") -> str:
        """The first field that differs, with both values; nothing where all are the same."""
        for field in fields(self):
            own, theirs = getattr(self, field.name), getattr(other, field.name)
            if own != theirs:
                return f"{_SAID[field.name]} {theirs[:16]} there and {own[:16]} here"
        return ""


_SAID = {
    "sampan": "Sampan is",
    "files": "the model's files differ: their hash is",
    "probe": "its probabilities differ: the hash of some is",
}


def digest(files: ModelFiles) -> str:
    """Of what is read of a model: the file, or the files of a folder by their names."""
    found = sha256()
    for path in _read(files):
        found.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()


def _read(files: ModelFiles) -> Iterator[Path]:
    if files.path.is_file():
        yield files.path
        return
    yield from sorted(path for path in files.path.iterdir() if path.suffix in _READ)

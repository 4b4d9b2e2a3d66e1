"""Writes a model as a folder of packed weights: the way back from `weights/packed.py`.

The folder is complete and self-contained, or it is not there: it is written beside its place under another
name, made to survive a power cut, and renamed.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import SampanError, UnsupportedModel, UsageError, shortened
from sampan.kernels.formats import PackedMatrix
from sampan.kernels.tensors import Tensors
from sampan.models import registry
from sampan.models.registry import describe
from sampan.weights.checkpoint import Checkpoint
from sampan.weights.naming import weights_of
from sampan.weights.packed import header

_BLOCK = 2**23  # bytes of one write
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What a folder keeps of the one it was made from, beside the weights.
_COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "modules.json",
    "config_sentence_transformers.json",
    "[0-9]*_*/config.json",
    "additional_chat_templates/*.jinja",
    "LICENSE*",
    "NOTICE*",
)


class Piece(Protocol):
    """A matrix of the file, as a backend packs it."""

    @property
    def name(self) -> str:
        """Of its tensor."""

    def described(self, tensors: Tensors) -> PackedMatrix:
        """What the file says of it."""

    def panels(self, tensors: Tensors, machine: Any) -> NDArray[np.uint8]:
        """Its bytes."""


class PackedFile:
    """A packed file that is about to be written; `bytes` is its size."""

    def __init__(self, checkpoint: Checkpoint, pieces: Sequence[Piece]) -> None:
        self._checkpoint = checkpoint
        self._pieces = pieces
        self._matrices = {piece.name: piece.described(checkpoint) for piece in pieces}
        packed = {part for matrix in self._matrices.values() for part in matrix.parts}
        needed = dict(weights_of(checkpoint.config, checkpoint.purpose))
        if checkpoint.drafts and (layer := describe(checkpoint.config).draft()):
            needed |= layer.weights()
        self._vectors = {name: weight.shape for name, weight in needed.items() if name not in packed}
        self._header = header(self._matrices, self._vectors)
        stored = sum(matrix.stored for matrix in self._matrices.values())
        self.bytes = len(self._header) + stored + 4 * sum(map(prod, self._vectors.values()))

    def write(self, path: Path, machine: Any, advance: Callable[[int], None]) -> None:
        """Pack and write one matrix after another; `advance` is told the bytes written."""
        with path.open("wb") as file:
            blocks = _Blocks(file)
            advance(blocks.write(self._header))
            for piece in self._pieces:
                matrix = self._matrices[piece.name]
                blocks.write(piece.panels(self._checkpoint, machine).data)
                blocks.write(bytes(matrix.stored - matrix.bytes))
                advance(matrix.stored)
            for name in self._vectors:
                advance(blocks.write(self._checkpoint.array(name).tobytes()))
            blocks.finish()


class _Blocks:
    """Writes a file in whole blocks: Linux then keeps it in huge pages, which a mapping reads faster."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._pending = bytearray()

    def write(self, data: bytes | memoryview) -> int:
        """Take `data`; returns its bytes."""
        view = memoryview(data)
        for start in range(0, len(view), _BLOCK):
            self._pending += view[start : start + _BLOCK]
            if len(self._pending) >= _BLOCK:
                self._file.write(self._pending[:_BLOCK])
                del self._pending[:_BLOCK]
        return len(view)

    def finish(self) -> None:
        """Write what is left."""
        self._file.write(self._pending)


def hf_config(checkpoint: Checkpoint) -> dict[str, object]:
    """The `config.json` of a GGUF file's model, from which the same configuration is read again."""
    c = checkpoint.config
    family = registry.family_named(c.family, "model family")
    if family.to_hf is None:
        raise UnsupportedModel(f"{checkpoint.path}: a {c.family} model has no config.json form")
    given = family.to_hf(c, checkpoint.metadata)
    again, said = vars(registry.from_hf(given)), vars(c)
    if lost := [name for name in said if again.get(name) != said[name]]:
        what = "biases" if all(name.endswith("_bias") for name in lost) else ", ".join(lost)
        raise UnsupportedModel(f"{checkpoint.path}: its {what} cannot be written as a {c.family} config.json")
    return given


def write_json(path: Path, values: object) -> None:
    """A JSON file as people read it."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")


def copy_companions(source: Path, folder: Path) -> None:
    """Configuration, tokenizer, template and licence of a model folder."""
    for pattern in _COMPANIONS:
        for file in filter(Path.is_file, source.glob(pattern)):
            target = folder / file.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)


def free_place(out: Path) -> Path:
    """The absolute path of a folder that is not there yet, or is empty; UsageError for anything else."""
    try:
        place = out.expanduser().resolve()
        taken = place.exists() and (not place.is_dir() or any(place.iterdir()))
        parent = place.parent.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # ~NAME of nobody, a closed folder, a long name
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{shortened(out)} cannot be used as OUT: {reason}") from error
    if taken:
        raise UsageError(
            f"{shortened(out)} is there already and is no empty folder: give another OUT or remove it"
        )
    if not parent:
        raise UsageError(f"{shortened(place.parent)} is no folder: make it first")
    return place


@contextmanager
def staged(place: Path) -> Iterator[Path]:
    """A folder beside `place` that becomes `place` when the block ends well, and goes away otherwise."""
    staging = place.with_name(f".{place.name}.{os.getpid()}.partial")
    try:
        staging.mkdir()
        yield staging
        for path in [*staging.rglob("*"), staging]:
            _sync(path)
        staging.replace(place)
        _sync(place.parent)
    except OSError as error:
        raise _unwritten(place, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def staged_file(place: Path) -> Iterator[BinaryIO]:
    """The same for a file, open for writing."""
    staging = place.with_name(f".{place.name}.{os.getpid()}.partial")
    try:
        with staging.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        staging.replace(place)
        _sync(place.parent)
    except OSError as error:
        raise _unwritten(place, error) from error
    finally:
        staging.unlink(missing_ok=True)


def check_room(place: Path, needed: int) -> None:
    """SampanError when the file system of `place` has less than `needed` bytes free."""
    free = shutil.disk_usage(place.parent).free
    if needed > free:
        raise SampanError(
            f"{place} needs {needed / 1e6:.1f} MB and {place.parent} has {free / 1e6:.1f} MB free: make room"
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritten(place: Path, error: OSError) -> SampanError:
    if error.errno in _FULL:
        return SampanError(f"no space left for {place}: make room; what was written is removed")
    where = f" ({error.filename})" if error.filename else ""
    return SampanError(f"{place} cannot be written: {error.strerror or error}{where}")

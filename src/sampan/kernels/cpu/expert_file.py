"""A file of experts as they are read: made once from a checkpoint, expert by expert, and then used as it
is.

It lies in the folder `experts` of `SAMPAN_HOME` and may be removed at any time. The first block or blocks
hold a JSON object: what was packed, of which state of which files. It is written under another name, made to
survive a power cut, and renamed; what a writer that was ended has left is removed by the next.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from sampan.core.errors import SampanError
from sampan.kernels.cpu import panels
from sampan.kernels.cpu.layout import Segment, kind_of
from sampan.kernels.cpu.machine import Machine
from sampan.kernels.cpu.stored import BLOCK, Record, StoredLayer, written
from sampan.kernels.tensors import Tensors

_VERSION = 1
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def expert_file(
    folder: Path, source: str, layers: Sequence[StoredLayer], tensors: Tensors, machine: Machine,
    telling: Callable[[], AbstractContextManager[object]],
) -> tuple[Path, list[list[Record]]]:  # fmt: skip
    """The file and where each expert lies in it; written where it is not there yet, which `telling` says."""
    header = _header(source, layers, tensors)
    records = written(layers, len(header))
    size = records[-1][-1].offset + records[-1][-1].bytes
    digest = hashlib.sha256(header).hexdigest()[:16]
    place = folder / f"{re.sub('[^A-Za-z0-9._-]', '_', Path(tensors.where).stem)[:80]}-{digest}.experts"
    if not _is_there(place, header, size):
        with telling(), _staged(place, size) as file:
            file.write(header)
            for layer, own in zip(layers, records, strict=True):
                for segments, record in zip(layer.experts, own, strict=True):
                    _write(file, record, layer.offsets, segments, tensors, machine)
    return place, records


def _header(source: str, layers: Sequence[StoredLayer], tensors: Tensors) -> bytes:
    said = {
        "format": "sampan experts",
        "version": _VERSION,
        "source": source,
        "layers": [
            {
                "label": layer.label,
                "experts": len(layer.experts),
                "matrices": _kinds(layer.experts[0], tensors),
            }
            for layer in layers
        ],
    }
    text = json.dumps(said, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % BLOCK)


def _kinds(segments: Sequence[Segment], tensors: Tensors) -> list[str]:
    """What the bytes depend on."""
    return [
        f"{segment.n} x {segment.k}, {segment.nbytes} bytes of {kind_of(tensors, segment.parts[0])}"
        for segment in segments
    ]


def _write(
    file: BinaryIO, record: Record, offsets: Sequence[int], segments: Sequence[Segment], tensors: Tensors,
    machine: Machine,
) -> None:  # fmt: skip
    """One expert, with zeros between its matrices and behind them."""
    for offset, segment in zip(offsets, segments, strict=True):
        _fill(file, record.offset + record.base + offset)
        name = segment.parts[0].name
        packed = name in tensors.packed
        whole: Any = tensors.panels(name) if packed else panels.pack(tensors, segment.parts, machine).data
        file.write(whole)
    _fill(file, record.offset + record.bytes)


def _fill(file: BinaryIO, place: int) -> None:
    file.write(bytes(place - file.tell()))


def _is_there(place: Path, header: bytes, size: int) -> bool:
    try:
        with place.open("rb") as file:
            return file.read(len(header)) == header and os.fstat(file.fileno()).st_size == size
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SampanError(f"{place} cannot be read: {error.strerror or error}") from error


@contextmanager
def _staged(place: Path, size: int) -> Iterator[BinaryIO]:
    """A file that becomes `place` when the block ends well, and goes away otherwise."""
    staging = place.with_name(f"{place.name}.{os.getpid()}.partial")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _sweep(place)
        free = shutil.disk_usage(place.parent).free
        if size > free:
            raise SampanError(
                f"{place} needs {size / 1e6:.1f} MB and {place.parent} has {free / 1e6:.1f} MB free: make "
                "room, or set SAMPAN_HOME to a folder on another disk"
            )
        with staging.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):  # what comes from disk later need not stay in memory now
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        staging.replace(place)
    except OSError as error:
        raise _unwritten(place, error) from error
    finally:
        with suppress(OSError):
            staging.unlink()


def _sweep(place: Path) -> None:
    """Remove what writers of this file have left that are no more."""
    for left in place.parent.glob(f"{place.name}.*.partial"):
        writer = left.name.removesuffix(".partial").rpartition(".")[2]
        if not (writer.isdecimal() and _runs(int(writer))):
            left.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _unwritten(place: Path, error: OSError) -> SampanError:
    if error.errno in _FULL:
        return SampanError(f"no space left for {place}: make room; what was written is removed")
    return SampanError(f"{place} cannot be written: {error.strerror or error}")

"""How fast a disk reads, past the system's cache of files."""

import mmap
import os
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

READERS = 2
"""Threads that read beside the compute."""

_PIECE = 4 << 20  # bytes of a read: about one expert
_ALIGNED = 4096
_SECONDS = 0.5
_LEAST = 32 << 20  # bytes of a file that is worth reading


def read_rate(file: Path) -> float | None:
    """Bytes a second of large reads at random places of a file, by two threads; None where the file is too
    short or its disk cannot be read directly: what the system has cached says nothing of a disk."""
    try:
        size = file.stat().st_size
        if size < _LEAST:
            return None
        descriptor = os.open(file, os.O_RDONLY | os.O_DIRECT)
    except (OSError, AttributeError):
        return None
    try:
        with ThreadPoolExecutor(READERS) as threads:
            start = perf_counter()
            read = sum(
                threads.map(lambda seed: _read(descriptor, size, seed, start + _SECONDS), range(READERS))
            )
            return read / (perf_counter() - start)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def read_rate_of(folder: Path) -> float | None:
    """The same of the disk of a folder that holds nothing to read yet: of a file that is gone afterwards."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            for _ in range(2 * _LEAST // _PIECE):
                file.write(os.urandom(_PIECE))
            file.flush()
            os.fsync(file.fileno())
            return read_rate(Path(file.name))
    except OSError:
        return None


def _read(descriptor: int, size: int, seed: int, until: float) -> int:
    """Bytes read until then."""
    draw, done = random.Random(seed), 0
    with mmap.mmap(-1, _PIECE) as buffer:
        while perf_counter() < until:
            place = draw.randrange(0, size - _PIECE) // _ALIGNED * _ALIGNED
            done += os.preadv(descriptor, [buffer], place)
    return done

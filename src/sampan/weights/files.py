"""What both containers share: a mapped file, what is known of a tensor in it, and how damage is named.

Whatever a path is, what is read here is a regular file, and everything else a `WeightsError` that says where.
"""

import mmap
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import UsageError, WeightsError, quoted, shortened
from sampan.kernels.formats import Codes, Form, TensorType

Floats = NDArray[np.float32]

_WITHOUT_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)


class Decoder(Protocol):
    """A matrix that the file holds in other tensors; rows are counted over all axes but the last."""

    def values(self, start: int, stop: int) -> Floats:
        """Rows [start, stop) as a new float32 array."""

    def codes(self, start: int, stop: int) -> Codes:
        """The same as codes, where the tensor has a form."""

    def form_at(self, first: int) -> Form | None:
        """Of the codes of rows from here on, where they have a form."""

    def release(self, start: int, stop: int) -> None:
        """Give the pages that hold these rows back to the system."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor under the name that its file gives it: `shape` is row-major, [out, in] for a matrix;
    `offset` is its first byte.

    `form`: of codes, where the kernels take those and not the bytes. `decoder`: of a tensor whose values are
    computed from several of the file's; `type` is then of what comes out, the tensor's rows are the decoder's
    from `first` on, and `offset` and `nbytes` are where codes lie. `turned`: a matrix that lies [in, out], as
    `shape` says.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    file: Path
    offset: int
    nbytes: int
    form: Form | None = None
    decoder: Decoder | None = None
    first: int = 0
    turned: bool = False


def damaged(path: Path, field: str, offset: int, problem: str) -> WeightsError:
    """The error of one field of one file; the caller raises it."""
    return WeightsError(f"{path}: {field} at byte {offset} {problem}")


def given_path(name: str, value: object) -> Path:
    """The argument `name` as a path; `UsageError` for what is none."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if isinstance(text, str) and text:
        return Path(text)
    raise UsageError(f"{name} is {quoted(value)}: give the path of a file or folder")


def state_of(paths: Iterable[Path]) -> str:
    """These files as they are now: their places, sizes and times of change."""
    found = []
    for path in sorted(paths):
        with reading(path):
            status = path.stat()
        found.append(f"{path.absolute()}: {status.st_size} bytes, {status.st_mtime_ns}")
    return "\n".join(found)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What the system says against reading at `path`, as a `WeightsError`."""
    try:
        yield
    except OSError as error:
        raise WeightsError(f"{shortened(path)}: cannot be read: {error.strerror or error}") from error


def is_there(path: Path) -> bool:
    """Whether there is anything at `path`; `WeightsError` where the system does not say."""
    return _mode(path) != 0


def is_folder(path: Path) -> bool:
    """Whether there is a folder at `path`; `WeightsError` where the system does not say."""
    return stat.S_ISDIR(_mode(path))


def files_in(folder: Path, ending: str) -> list[Path]:
    """What lies in a folder under names with this ending, in their order."""
    with reading(folder):
        return sorted(path for path in folder.iterdir() if path.name.endswith(ending))


def open_regular(path: Path) -> BinaryIO:
    """A regular file, opened for reading. `WeightsError` for anything else; no pipe is waited for."""
    if (mode := _mode(path)) and not stat.S_ISREG(mode):  # opening a device may already do something
        raise WeightsError(f"{shortened(path)}: is not a regular file")
    with reading(path):
        handle = os.open(path, os.O_RDONLY | _WITHOUT_WAITING)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    raise WeightsError(f"{shortened(path)}: is not a regular file")


def _mode(path: Path) -> int:
    with reading(path):
        try:
            return path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return 0
        except ValueError as error:  # a zero byte, or half a character
            raise WeightsError(f"{quoted(str(path))}: cannot be read: no file has such a name") from error


class MappedFile:
    """A regular file mapped read-only. Views stay valid after `close`: the last one unmaps it.

    A file that another process truncates while it is mapped ends this process (SIGBUS), as with any mapping.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = _map(path)
        self.size = len(self.data)
        self._bytes: NDArray[np.uint8] = np.frombuffer(self.data, np.uint8)

    def view(self, offset: int, nbytes: int) -> NDArray[np.uint8]:
        """`nbytes` bytes from `offset`, read-only and not copied."""
        return self._bytes[offset : offset + nbytes]

    def release(self, offset: int, nbytes: int) -> None:
        """Give the pages of this range back to the system; a later read fetches them again."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        start = offset // mmap.PAGESIZE * mmap.PAGESIZE
        self.data.madvise(mmap.MADV_DONTNEED, start, offset + nbytes - start)

    def close(self) -> None:
        """Unmap, or leave that to the last view."""
        self._bytes = np.empty(0, np.uint8)
        with suppress(BufferError):
            self.data.close()


def _map(path: Path) -> mmap.mmap:
    with open_regular(path) as file, reading(path):
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise WeightsError(f"{path}: is empty: fetch it again") from None

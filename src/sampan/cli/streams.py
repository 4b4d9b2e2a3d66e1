"""The streams that a command is started with, whatever state they are in.

Contract, inside `standard_streams`: writing to stderr never fails, for nobody may end because a note cannot
be shown. Results that cannot be written to stdout are an `OSError`, also where it is closed. None of the
numbers 0 to 2 is free, so that no file that is opened can take a closed stream's place.
"""

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class _Forgiving:
    """A stream that takes what it can."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Streams as the contract says, in the place of those that Python has made."""
    before = sys.stdout, sys.stderr
    _occupy()
    # The first can only be read by then: what is written to it fails.
    out = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    err = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = out, cast(TextIO, _Forgiving(err))
    try:
        yield
    finally:
        for stream in (out, err):
            if failure(stream) is not None:
                discard(stream)
        sys.stdout, sys.stderr = before


def failure(stream: TextIO) -> OSError | None:
    """Why what waits in `stream` cannot be written, once it was tried."""
    if stream.closed:  # in this process
        return OSError(errno.EBADF, os.strerror(errno.EBADF))
    try:
        stream.flush()
    except OSError as error:
        return error
    return None


def discard(stream: TextIO) -> None:
    """Let the interpreter's end find nothing that it could fail to write."""
    with suppress(OSError, ValueError):
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, stream.fileno())
        os.close(sink)
        stream.flush()


def _occupy() -> None:
    for number, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)

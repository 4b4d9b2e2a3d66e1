"""What a machine does to a run: a disk that is full, memory that is not there, and Ctrl-C."""

import errno
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from sampan.core.errors import OutOfMemory, SampanError, shortened
from sampan.kernels.torch.device import NO_MEMORY

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_GO_ON = "the last checkpoint is whole, and --resume goes on from it"


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """A full disk and missing memory as one line that says what is left of the run in `folder`."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise _memory(error) from error
        if error.errno not in _FULL:
            raise
        raise no_room(folder, error) from error
    except MemoryError as error:
        raise _memory(error) from error
    except RuntimeError as error:  # PyTorch's
        if not any(words in str(error) for words in (*NO_MEMORY, "can't start new thread")):
            raise
        raise _memory(error) from error


@contextmanager
def short_of_memory() -> Iterator[None]:
    """Missing memory that the engine has told already, as a line that says what is left of the run, too."""
    try:
        yield
    except OutOfMemory as error:
        raise _memory(error) from error


def no_room(path: Path, error: Exception) -> SampanError:
    """What cannot be written."""
    why = getattr(error, "strerror", None) or str(error)
    return SampanError(f"{shortened(path)}: cannot be written: {why}: make room; {_GO_ON}")


def _memory(error: BaseException) -> OutOfMemory:
    first = str(error).partition("\n")[0] or type(error).__name__
    return OutOfMemory(
        f"out of memory ({first}): {_GO_ON} where more is free; "
        "another run takes less with fewer `rows` or problems in its recipe"
    )


class Stopping:
    """What Ctrl-C asks for: the step that is computed is done, kept, and the last one. `asked`: since when
    it was; a second one ends at once, and where there is nothing to lose (`freely`) the first does."""

    def __init__(self, note: Callable[[str], Any]) -> None:
        self.asked = False
        self._free = False
        self._note = note

    @contextmanager
    def freely(self) -> Iterator[None]:
        """Within, nothing is computed that a checkpoint lacks."""
        self._free = True
        try:
            self.check()
            yield
        finally:
            self._free = False

    def check(self) -> None:
        """Raises `KeyboardInterrupt` where it was asked for."""
        if self.asked:
            raise KeyboardInterrupt

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        """See `signal.signal`."""
        if self.asked or self._free:
            self.asked = True
            raise KeyboardInterrupt
        self.asked = True
        self._note("stops behind this step, which is kept; Ctrl-C again stops now")


@contextmanager
def stopping(note: Callable[[str], Any]) -> Iterator[Stopping]:
    """Ctrl-C as `Stopping` has it, in the main thread; elsewhere none comes. `note` tells the user."""
    stop = Stopping(note)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:  # a shell's background jobs
        yield stop
        return
    signal.signal(signal.SIGINT, stop.handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)

"""What a person sees beside the results: dimmed notes and progress, and only where there is a terminal."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from sampan.core.errors import RequestError

# All control characters but newline and tab: a model's text must not be able to steer a terminal.
_CONTROLS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "\ufffd")


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person looks at `stream`; it is None when the parent closed it."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it was closed since
        return False


def printable(text: str) -> str:
    """`text` with control characters replaced by U+FFFD."""
    return text.translate(_CONTROLS)


def dim(text: str) -> str:
    """`text` in a quieter colour, as it is where the terminal has none (`NO_COLOR`, `TERM=dumb`)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[2m{text}\x1b[0m"


def say(text: str) -> None:
    """A line on stderr, where it can be written."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.write(printable(text) + "\n")  # at once: other threads write too


def note(text: str) -> None:
    """A dimmed line for the person at the terminal; nothing where stderr is none."""
    if is_terminal(sys.stderr):
        with suppress(OSError, ValueError):
            print(dim(printable(text)), file=sys.stderr)


def read_stdin() -> str:
    """All of stdin; `RequestError` when it is closed or no UTF-8 text."""
    if sys.stdin is None or sys.stdin.closed:
        raise RequestError("stdin is closed: nothing can be read from it")
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"stdin is no UTF-8 text: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise RequestError(f"stdin cannot be read: {error.strerror}") from error


@contextmanager
def token_bar(label: str, total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr over `total` tokens; yields the function that moves it."""
    if not (shown and is_terminal(sys.stderr)):
        yield lambda _tokens: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} tokens"),
    )
    # Redirected, results would go to stderr with the bar.
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as bar:
        task = bar.add_task(label, total=total)
        yield lambda tokens: bar.advance(task, tokens)

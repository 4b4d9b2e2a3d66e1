"""A download's bar on stderr, so that stdout holds results only."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


class TerminalProgress:
    """`sampan.catalog.progress.Progress` on a terminal; one line a download where stderr is no terminal."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def start(self, total: int | None, label: str) -> None:
        """Open a bar; rich is imported here, because most commands never download."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self.finish()
        console = Console(stderr=True)
        if not console.is_terminal:
            console.print(label, markup=False, highlight=False, soft_wrap=True)
            return
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._bar = Progress("{task.description}", *columns, console=console, transient=True)
        self._task = self._bar.add_task(label, total=total)
        self._bar.start()

    def advance(self, n: int) -> None:
        """Move the bar by `n` bytes."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, n)

    def finish(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None

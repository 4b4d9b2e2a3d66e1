"""What a download tells whoever waits for it. The terminal's bar lives in `sampan.cli.progress`."""

from typing import Protocol


class Progress(Protocol):
    """`start` opens one bar (and closes the one before), `advance` adds bytes, `finish` closes it."""

    def start(self, total: int | None, label: str) -> None:
        """Begin `label`, `total` bytes long; None when the length is not known."""

    def advance(self, n: int) -> None:
        """`n` more bytes are there; negative when a server made us start again."""

    def finish(self) -> None:
        """The work is over, well or badly. Called again, it does nothing."""


class Silent:
    """A `Progress` that shows nothing."""

    def start(self, total: int | None, label: str) -> None:
        """Show nothing."""

    def advance(self, n: int) -> None:
        """Show nothing."""

    def finish(self) -> None:
        """Show nothing."""

"""What was changed of a model while it was served, so that an engine that is started again has it too."""

import asyncio
from collections.abc import Iterable

from sampan.server.errors import ApiError
from sampan.server.process.wire import Change, Changed


class Changes:
    """`made`: in order; what was loaded and unloaded again is not among them."""

    def __init__(self, made: Iterable[Change] = ()) -> None:
        self.made = list(made)
        self._asked: dict[int, tuple[Change, asyncio.Future[Changed]]] = {}

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters that are loaded."""
        return [change.name for change in self.made if change.kind == "load"]

    def ask(self, change: Change) -> asyncio.Future[Changed]:
        """A change that the engine is told to make."""
        done: asyncio.Future[Changed] = asyncio.get_running_loop().create_future()
        self._asked[change.id] = change, done
        return done

    def answered(self, changed: Changed) -> None:
        """What the engine said."""
        change, done = self._asked.pop(changed.id)
        if changed.error is None:
            self._remember(change)
        if not done.done():
            done.set_result(changed)

    def lost(self, change: Change) -> None:
        """It could not be made again."""
        self.made.remove(change)

    def give_up(self, error: ApiError) -> None:
        """The engine ended: nobody will answer what was asked."""
        asked, self._asked = self._asked, {}
        for _, done in asked.values():
            if not done.done():
                done.set_exception(error)

    def _remember(self, change: Change) -> None:
        if change.kind != "unload":
            self.made.append(change)
        else:
            self.made = [c for c in self.made if c.kind != "load" or c.name != change.name]

"""Keys in the database, for several services at once.

Contract: `find` answers from memory. A thread of its own reads the table again every second, from `follow` or
the first `find` to `close`; while the database cannot be read, the keys are those that were there last.
"""

import logging
import threading
import time
from dataclasses import asdict
from typing import Any

from sqlalchemy import Engine, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from sampan.core.errors import UsageError, quoted
from sampan.server.storage.database import api_keys, storage
from sampan.server.storage.keys import Clock, Key, Keyring

_log = logging.getLogger(__name__)


class DatabaseKeys:
    """The table `api_keys`. `every`: seconds after which a change is known at the latest.

    `any`: there is a key, or was one, valid or not, since `follow`.
    """

    def __init__(self, engine: Engine, *, every: float = 1.0, now: Clock = time.time) -> None:
        self._engine = engine
        self._every = every
        self._now = now
        self._ring: Keyring | None = None
        self._starting = threading.Lock()
        self._closed = threading.Event()
        self.healthy = True
        self.any = False

    def follow(self) -> None:
        """Read the table now, and again and again; may raise `StorageError`."""
        with self._starting:
            if self._ring is None:
                self._take()
                threading.Thread(target=self._follow, name="sampan-keys", daemon=True).start()

    def find(self, presented: str) -> Key | None:
        """As `KeyStore.find`; only the first call reads the database, and may raise `StorageError`."""
        if self._ring is None:
            self.follow()
        assert self._ring is not None
        return self._ring.find(presented, self._now())

    def all(self) -> list[Key]:
        """Every key, revoked ones too, oldest first."""
        return [key for key, _ in self._read()]

    def add(self, key: Key, secret: bytes) -> None:
        """As `KeyBook.add`."""
        values = asdict(key) | {"models": list(key.models), "sha256": secret}
        values["created"] = key.created if key.created is not None else int(self._now())
        with storage(self._engine), self._engine.begin() as connection:
            try:
                connection.execute(insert(api_keys).values(values))
            except IntegrityError:
                raise UsageError(f"there is a key with the id {key.id} already") from None

    def revoke(self, id: str) -> Key:
        """As `KeyBook.revoke`."""
        marked = func.coalesce(api_keys.c.revoked, int(self._now()))
        with storage(self._engine), self._engine.begin() as connection:
            connection.execute(update(api_keys).where(api_keys.c.id == id).values(revoked=marked))
            row = connection.execute(select(api_keys).where(api_keys.c.id == id)).one_or_none()
        if row is None:
            raise UsageError(f"no key with the id {quoted(id)}; `sampan keys list` shows them")
        return _key(row)[0]

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _take(self) -> None:
        before, self._ring = self._ring, Keyring.of(self._read())
        if self._ring.keys and not self.any:
            self.any = True
            if before is not None:
                _log.info("there is a key now: from here on clients must show one")

    def _follow(self) -> None:
        while not self._closed.wait(self._every):
            try:
                self._take()
                self.healthy = True
            except Exception as error:  # whatever it is: the thread lives on, and tries again
                if self.healthy:
                    _log.error("the keys cannot be read again, the last ones stay valid: %s", error)
                self.healthy = False

    def _read(self) -> list[tuple[Key, bytes]]:
        with storage(self._engine), self._engine.connect() as connection:
            rows = connection.execute(select(api_keys).order_by(api_keys.c.created, api_keys.c.id)).all()
        return [_key(row) for row in rows]


def _key(row: Any) -> tuple[Key, bytes]:
    values = dict(row._mapping)
    secret = bytes(values.pop("sha256"))
    return Key(**values | {"models": tuple(values["models"])}), secret

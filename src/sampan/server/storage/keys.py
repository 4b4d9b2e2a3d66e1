"""API keys: their form, their limits, and the file that keeps them.

Contract: a key is known by its digest only, and neither it nor its digest is ever part of a `Key`, an error,
a repr or a log line. `find` takes what a client presented and gives the key's description, or None when it is
unknown, wrong, expired or revoked: these cannot be told apart, in the answer or by its time.
"""

import hashlib
import hmac
import secrets
import string
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

from sampan.core.errors import UsageError, quoted
from sampan.server.ask import Caller

PREFIX = "sk-sampan-"
SHORTEST = 16
_SECRET_LENGTH = 43  # of 62 characters: 256 bits
_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Key:
    """What a key may do. Times: whole seconds since the epoch. None: no limit; no `models`: every model.
    `admin`: it may load adapters and weights.

    `priority`: lower goes first. A request costs `tokens_per_*` its prompt and its answer.
    """

    id: str
    name: str
    priority: int = 0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    models: tuple[str, ...] = ()
    admin: bool = False
    created: int | None = None
    expires: int | None = None
    revoked: int | None = None

    def __post_init__(self) -> None:
        for limit in ("requests_per_minute", "tokens_per_minute", "tokens_per_day"):
            value = getattr(self, limit)
            if value is not None and value < 1:
                raise UsageError(
                    f"key {quoted(self.id)}: {limit} is {quoted(value)}; give 1 or more, or leave it out"
                )

    def allows(self, model: str) -> bool:
        """Whether it may use this model or adapter."""
        return not self.models or model in self.models

    def valid(self, now: float) -> bool:
        """Neither revoked nor expired."""
        return self.revoked is None and (self.expires is None or now < self.expires)

    def caller(self) -> Caller:
        """It as the one who asks."""
        return Caller(key=self.id, name=self.name, priority=self.priority, admin=self.admin)


class KeyStore(Protocol):
    """Where a service looks keys up. `find` neither blocks nor raises for any text."""

    def find(self, presented: str) -> Key | None:
        """The key that was presented, if it is one and valid now."""
        ...


class KeyBook(KeyStore, Protocol):
    """A store that keys can be added to."""

    def all(self) -> list[Key]:
        """Every key, revoked ones too, oldest first."""
        ...

    def add(self, key: Key, secret: bytes) -> None:
        """Keep `key` under the digest of what clients will present. `UsageError` when its id is taken."""
        ...

    def revoke(self, id: str) -> Key:
        """Mark a key as revoked, for good. `UsageError` when there is none with this id."""
        ...


def generate(name: str, draft: Key | None = None) -> tuple[Key, str]:
    """A new key with the limits of `draft`, and the text to present, which is kept nowhere."""
    id = secrets.token_hex(5)
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))
    key = replace(draft or Key(id, name), id=id, name=name, created=int(time.time()))
    return key, f"{PREFIX}{id}-{secret}"


def digest(presented: str) -> bytes:
    """SHA-256, 32 bytes.

    No salt and no slow hash: those protect what people choose. 256 random bits cannot be searched, and a
    slow hash of whatever is presented would let anybody keep the service busy with wrong keys.
    """
    return hashlib.sha256(_bytes(presented)).digest()


def key_id(presented: str) -> str:
    """The public part of a key: what stands in it, or for a key of another form, 40 bits of a hash of it."""
    id, dash, secret = presented.removeprefix(PREFIX).partition("-")
    if presented.startswith(PREFIX) and id and dash and secret:
        return id
    return hashlib.sha256(b"sampan key id:" + _bytes(presented)).hexdigest()[:10]


def _bytes(presented: str) -> bytes:
    return presented.encode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Keyring:
    """Keys and digests as they were at one moment; `find` costs the same whether the id is known or not."""

    keys: dict[str, tuple[Key, bytes]] = field(repr=False)

    @classmethod
    def of(cls, pairs: Iterable[tuple[Key, bytes]]) -> "Keyring":
        """A keyring of keys and their digests."""
        return cls({key.id: (key, secret) for key, secret in pairs})

    def find(self, presented: str, now: float) -> Key | None:
        """As `KeyStore.find`, at the time `now`."""
        key, secret = self.keys.get(key_id(presented), _NOBODY)
        same = hmac.compare_digest(digest(presented), secret)
        return key if same and key.valid(now) else None


_NOBODY = (Key("", "nobody", revoked=0), bytes(32))

Clock = Callable[[], float]

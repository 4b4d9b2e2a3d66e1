"""Who may ask, how much, and what came of it: keys, limits and the ledger of a service."""

from collections.abc import Mapping, Sequence

from sampan.core.errors import UsageError, quoted
from sampan.server.ask import Ask, Caller, Usage
from sampan.server.errors import ApiError
from sampan.server.limits import Limits, Reservation
from sampan.server.settings import ServeSettings
from sampan.server.storage.database import connect, default_url
from sampan.server.storage.key_file import FileKeys
from sampan.server.storage.key_table import DatabaseKeys
from sampan.server.storage.keys import Key, KeyStore
from sampan.server.storage.ledger import Ledger

LOCAL = ("127.0.0.1", "::1", "localhost")


class Admission:
    """`keys`: where clients' keys are looked up; None where none will ever be asked for."""

    def __init__(self, ledger: Ledger, keys: KeyStore | None) -> None:
        self.ledger = ledger
        self.keys = keys
        self.limits = Limits(ledger)
        self._seen: dict[str, Key] = {}

    @classmethod
    def open(cls, settings: ServeSettings) -> "Admission":
        """As the settings say. Without a file of keys those of the database count, from the first one on.

        `UsageError` for an address that others reach, and no keys.
        """
        database = connect(settings.database or default_url(settings.engine.settings.home))
        keys: KeyStore | None = None
        if settings.key_file is not None:
            keys = FileKeys(settings.key_file)
        elif not settings.open_to_all:
            keys = DatabaseKeys(database)
            keys.follow()
        admission = cls(Ledger(database), keys)
        if not admission.asks and settings.host not in LOCAL and not settings.open_to_all:
            admission.close()
            raise UsageError(
                f"--host {settings.host} lets the network in, and there are no keys: make some "
                "(sampan keys create NAME), give --api-key-file, or say --without-keys"
            )
        return admission

    @property
    def asks(self) -> bool:
        """Whether clients must show a key; once the database has had one, until the service ends."""
        return self.keys is not None and not (isinstance(self.keys, DatabaseKeys) and not self.keys.any)

    def caller(self, headers: Mapping[str, str]) -> Caller:
        """Who asks; a 401 for a key that is missing, unknown, revoked or expired."""
        if self.keys is None or not self.asks:
            return Caller()
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        other = headers.get("x-api-key") or headers.get("api-key", "")
        presented = bearer.strip() if scheme.lower() == "bearer" else other
        key = self.keys.find(presented) if presented else None
        if key is None:
            what = "is not valid here" if presented else "is missing: send it as Authorization: Bearer KEY"
            raise ApiError(401, f"the API key {what}", kind="authentication_error", code="invalid_api_key")
        self._seen[key.id] = key
        return key.caller()

    def admit(self, asks: Sequence[Ask], caller: Caller, context: int) -> Reservation:
        """Take a request's share of its key's limits; `ApiError` 403 or 429."""
        key = None if caller.key is None else self._seen.get(caller.key)
        for ask in asks:
            if key is not None and not key.allows(ask.model):
                message = f"this key may not use the model {quoted(ask.model)}"
                raise ApiError(403, message, kind="permission_error", code="model_not_allowed", param="model")
        prompts = sum(len(ask.ids) for ask in asks)
        return self.limits.admit(key, prompts, sum(_most(ask, context) * ask.n for ask in asks))

    def count(self, caller: Caller, requests: float = 1.0) -> None:
        """Take what costs no tokens from a key's rate of requests; `ApiError` 429."""
        key = None if caller.key is None else self._seen.get(caller.key)
        self.limits.settle(self.limits.admit(key, 0, 0, requests), 0)

    def settle(self, reservation: Reservation, usage: Usage) -> None:
        """What was really used."""
        self.limits.settle(reservation, usage.prompt_tokens + usage.completion_tokens)

    def headers(self, caller: Caller) -> dict[str, str]:
        """What a client may still do, as OpenAI's headers tell it."""
        return self.limits.headers(None if caller.key is None else self._seen.get(caller.key))

    def close(self) -> None:
        """Write what is not written yet."""
        self.ledger.close()
        if isinstance(self.keys, DatabaseKeys):
            self.keys.close()


def _most(ask: Ask, context: int) -> int:
    """Tokens that an answer may have."""
    return max(0, ask.sampling.limit(len(ask.ids), context) - len(ask.ids))

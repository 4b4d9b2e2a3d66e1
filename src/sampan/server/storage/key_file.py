"""Keys in a file, one a line: a JSON object of a key and its SHA-256, or simply a key as clients present it.

    # comments and empty lines are skipped
    {"id": "3f9a…", "name": "alice", "sha256": "…", "requests_per_minute": 60}
    a-key-of-your-own-choice-0123456789   # bob

Contract: the file is read again when it has changed, so adding and revoking work while a service runs. A line
that cannot be read is an error at the start; later it is logged and only that line's key is out of use. A
file that cannot be read lets nobody in. Writing replaces the file at once, keeping its mode and owner; a new
one is readable by its owner only. No message shows a key.
"""

import json
import logging
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from sampan.core.errors import SampanError, StorageError, UsageError, quoted, shortened
from sampan.server.storage.keys import SHORTEST, Clock, Key, Keyring, digest, key_id
from sampan.server.storage.sqlite_file import make_folder

_log = logging.getLogger(__name__)
_RAW = re.compile(r"(?P<key>[!-~]+)(?:\s+#\s*(?P<name>.*))?")  # as a header can carry it
_TYPES: dict[str, type] = {
    **{item.name: str if item.name in ("id", "name") else int for item in fields(Key)},
    "models": list,
    "admin": bool,
}
_Stamp = tuple[int, int, int] | None


class FileKeys:
    """The keys in `path`, which may not be there yet where keys are to be added."""

    def __init__(self, path: Path, *, create: bool = False, now: Clock = time.time) -> None:
        self._path = path
        self._now = now
        if not _is_there(path) and not create:
            shown = shortened(path)
            raise StorageError(
                f"{shown}: no such key file; `sampan keys create NAME --file {shown}` makes it"
            )
        self._stamp = self._changed_at()
        self._ring = Keyring.of(self._read(strict=True))
        if self._stamp and path.stat().st_mode & stat.S_IROTH:
            _log.warning("%s can be read by everybody on this machine: chmod 600 protects it", path)

    def find(self, presented: str) -> Key | None:
        """As `KeyStore.find`; costs one `stat` while the file stays as it is."""
        stamp = self._changed_at()
        if stamp != self._stamp:
            self._ring = Keyring.of(self._read_again(stamp))
            self._stamp = stamp
        return self._ring.find(presented, self._now())

    def all(self) -> list[Key]:
        """Every key, revoked ones too, in the file's order."""
        return [key for key, _ in self._read(strict=True)]

    def add(self, key: Key, secret: bytes) -> None:
        """As `KeyBook.add`; the rest of the file stays as it is."""
        with self._locked():
            if any(other.id == key.id for other in self.all()):
                raise UsageError(f"{self._path}: there is a key with the id {key.id} already")
            text = self._text()
            between = "" if not text or text.endswith("\n") else "\n"
            self._write(f"{text}{between}{_record(key, secret)}\n")

    def revoke(self, id: str) -> Key:
        """As `KeyBook.revoke`; a key that stood there as it is becomes its digest."""
        with self._locked():
            lines = self._text().splitlines()
            for number, key, secret in self._entries(strict=True):
                if key.id == id:
                    gone = replace(key, revoked=key.revoked or int(self._now()))
                    lines[number - 1] = _record(gone, secret)
                    self._write("\n".join(lines) + "\n")
                    return gone
        raise UsageError(f"{self._path}: no key with the id {quoted(id)}; `sampan keys list` shows them")

    def _changed_at(self) -> _Stamp:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self, *, strict: bool) -> list[tuple[Key, bytes]]:
        return [(key, secret) for _, key, secret in self._entries(strict=strict)]

    def _read_again(self, stamp: _Stamp) -> list[tuple[Key, bytes]]:
        try:
            if stamp is None:
                raise StorageError(f"{self._path}: the key file is gone")
            return self._read(strict=False)
        except StorageError as error:
            _log.error("no key is valid: %s", error)
            return []

    def _entries(self, *, strict: bool) -> Iterator[tuple[int, Key, bytes]]:
        seen: set[str] = set()
        for number, line in enumerate(self._text().splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                key, secret = _parse(line.strip())
                if key.id in seen:
                    raise UsageError(f"another line has the id {quoted(key.id)} already")
            except SampanError as error:
                if strict:
                    raise UsageError(f"{self._path} line {number}: {error}") from None
                _log.error("%s line %d is left out: %s", self._path, number, error)
                continue
            seen.add(key.id)
            yield number, key, secret

    def _text(self) -> str:
        try:
            return self._path.read_text("utf-8-sig")
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise StorageError(f"{self._path}: the key file cannot be read: {reason}") from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        from filelock import FileLock

        try:
            make_folder(self._path.parent)
            with FileLock(f"{self._path}.lock", timeout=10, mode=0o600):
                yield
        except OSError as error:  # the lock's Timeout is one
            raise StorageError(f"{self._path}: cannot be written: {error.strerror or error}") from error

    def _write(self, text: str) -> None:
        handle, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)  # 0600
        new = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            self._as_before(new)
            new.replace(self._path)
        finally:
            new.unlink(missing_ok=True)

    def _as_before(self, new: Path) -> None:
        with suppress(FileNotFoundError):
            old = self._path.stat()
            new.chmod(stat.S_IMODE(old.st_mode))
            if hasattr(os, "chown") and (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                with suppress(PermissionError):  # a service of another user goes on reading it
                    os.chown(new, old.st_uid, old.st_gid)


def _is_there(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no file has such a name"
        raise StorageError(f"{shortened(path)}: the key file cannot be read: {reason}") from None
    if not stat.S_ISREG(mode):
        raise StorageError(f"{path}: is no key file but a folder, a pipe or a device")
    return True


def _record(key: Key, secret: bytes) -> str:
    values = {name: value for name, value in asdict(key).items() if value not in (None, ())}
    return json.dumps(values | {"sha256": secret.hex()}, ensure_ascii=False)


def _parse(line: str) -> tuple[Key, bytes]:
    if line.startswith("{"):
        return _parse_record(line)
    raw = _RAW.fullmatch(line)
    if raw is None or len(raw["key"]) < SHORTEST:
        raise UsageError(
            f"a key is {SHORTEST} or more printable ASCII characters without spaces; `# NAME` may follow it"
        )
    id = key_id(raw["key"])
    return Key(id=id, name=raw["name"] or id), digest(raw["key"])


def _parse_record(line: str) -> tuple[Key, bytes]:
    try:
        values: dict[str, Any] = json.loads(line)
        secret = bytes.fromhex(values.pop("sha256"))
    except (ValueError, TypeError, KeyError, RecursionError):
        # Not the parser's own message: it carries the line.
        raise UsageError('not a JSON object with a "sha256" of 64 hexadecimal digits') from None
    for name, value in values.items():
        if name not in _TYPES:
            raise UsageError(f"there is no field {quoted(name, 40)}; the fields are {', '.join(_TYPES)}")
        if type(value) is not _TYPES[name]:
            raise UsageError(f"the field {name!r} must be of type {_TYPES[name].__name__}")
    if len(secret) != 32 or not values.get("id"):
        raise UsageError('a key has an "id" and a "sha256" of 64 hexadecimal digits')
    models = tuple(values.pop("models", ()))
    if not all(isinstance(model, str) for model in models):
        raise UsageError("the field 'models' must be a list of names")
    return Key(**{"name": values["id"], **values, "models": models}), secret

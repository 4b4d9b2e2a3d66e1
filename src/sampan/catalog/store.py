"""The cache on disk. A model is there completely, or it is not there.

    HOME/models/KEY/sampan.json   what it is, with the name and size of every file
    HOME/models/KEY/…             the files
    HOME/partial/KEY/             a download under way, or one to resume
    HOME/locks/KEY.lock           held while KEY is fetched or removed

A model is staged below `partial` and renamed into `models`, so a reader needs no lock.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sampan.catalog.paths import Kind
from sampan.catalog.progress import Progress
from sampan.catalog.source import Source, key

_MANIFEST = "sampan.json"


@dataclass(frozen=True)
class CachedModel:
    """A complete model in the cache; `bytes` is its size on disk."""

    source: str
    path: Path
    kind: Kind
    bytes: int


@dataclass(frozen=True)
class Staged:
    """A complete download: the model is `folder / path` ("" for the folder itself)."""

    folder: Path
    path: str
    kind: Kind


def lookup(home: Path, source: Source) -> CachedModel | None:
    """The model, when all its files are there with the sizes they had when they were verified."""
    return _read(home / "models" / key(source))


def everything(home: Path) -> tuple[CachedModel, ...]:
    """Every complete model of the cache, by source."""
    folders = sorted((home / "models").glob("*/"))
    return tuple(model for model in map(_read, folders) if model is not None)


def partial(home: Path, source: Source) -> Path:
    """Where this source is staged, in the file system that it will be renamed in."""
    return home / "partial" / key(source)


def commit(home: Path, source: Source, staged: Staged) -> CachedModel:
    """Make a staged download the model of this source, atomically. Hold the lock."""
    from sampan.catalog.disk import sync

    files = {
        file.relative_to(staged.folder).as_posix(): file.stat().st_size
        for file in sorted(staged.folder.rglob("*"))
        if file.is_file()
    }
    manifest = staged.folder / _MANIFEST
    manifest.write_text(
        json.dumps(
            {"source": source.spec, "path": staged.path, "kind": staged.kind, "files": files}, indent=1
        )
    )
    for path in (manifest, staged.folder):
        sync(path)
    final = home / "models" / key(source)
    final.parent.mkdir(parents=True, exist_ok=True)
    _discard(home, final)
    staged.folder.replace(final)
    sync(final.parent)
    shutil.rmtree(partial(home, source), ignore_errors=True)
    return CachedModel(source.spec, final / staged.path, staged.kind, sum(files.values()))


def delete(home: Path, source: Source) -> int | None:
    """Remove a model and what a broken download left of it: bytes freed, None when nothing was there."""
    places = [home / "models" / key(source), partial(home, source)]
    if not any(place.exists() for place in places):
        return None
    freed = sum(file.stat().st_size for place in places for file in place.rglob("*") if file.is_file())
    for place in places:
        _discard(home, place)
    return freed


@contextmanager
def locked(home: Path, source: Source, progress: Progress) -> Iterator[None]:
    """Hold this source's lock; tell `progress` when another process has it."""
    from filelock import FileLock, Timeout

    folder = home / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{key(source)}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.start(None, f"waiting for another process to fetch {source.spec}")
        lock.acquire()
        progress.finish()
    try:
        yield
    finally:
        lock.release()


def _read(folder: Path) -> CachedModel | None:
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        if any((folder / name).stat().st_size != size for name, size in manifest["files"].items()):
            return None
        size = sum(manifest["files"].values())
        return CachedModel(manifest["source"], folder / manifest["path"], manifest["kind"], size)
    except (OSError, ValueError, KeyError):
        return None


def _discard(home: Path, place: Path) -> None:
    # The rename makes the model vanish at once; a crash in rmtree leaves garbage, not half a model.
    if not place.exists():
        return
    trash = home / "partial" / f"{place.name}.removed"
    shutil.rmtree(trash, ignore_errors=True)
    trash.parent.mkdir(parents=True, exist_ok=True)
    place.replace(trash)
    shutil.rmtree(trash)

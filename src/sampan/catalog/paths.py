"""Models already on disk: a user's own file or folder, and the hub client's cache (never written)."""

import json
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Literal

from sampan.catalog.quantisations import choose
from sampan.catalog.source import HubSource, split_parts
from sampan.core.errors import ModelNotFound, WeightsError

Kind = Literal["gguf", "folder"]
WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# The files that a vocabulary is read from, the first that are there.
VOCABULARIES = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))


def open_path(path: Path) -> Kind:
    """What lies at `path`; an error that says what is missing when it is no model."""
    try:
        if path.is_dir():
            _check_folder(path)
            return "folder"
        _check_file(path)
        return "gguf"
    except PermissionError as error:
        raise ModelNotFound(f"{path}: no permission to read it ({error.strerror})") from error


def missing(folder: Path) -> list[str]:
    """The files that a model folder lacks, by name; every shard counts. Empty when it is complete."""
    names = {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()
    absent = [] if "config.json" in names else ["config.json"]
    absent += [] if vocabulary(names) else ["tokenizer.json"]
    if (folder / WHOLE).is_file():
        return absent
    if (folder / INDEX).is_file():
        return absent + [name for name in _shards(folder / INDEX) if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        absent.append("*.safetensors")
    return absent


def vocabulary(names: Collection[str]) -> tuple[str, ...]:
    """The files of a folder that its vocabulary is read from; none where there are none."""
    return next((files for files in VOCABULARIES if all(name in names for name in files)), ())


def in_hub_cache(cache: Path | None, source: HubSource) -> tuple[Path, Kind, int] | None:
    """The model in the hub client's cache, its kind and its bytes, when it is complete there.

    Layout: `models--ORG--NAME/refs/REVISION` holds a commit, `snapshots/COMMIT/` its files.
    """
    if cache is None:
        return None
    repo = cache / f"models--{source.repo.replace('/', '--')}"
    ref = repo / "refs" / source.revision
    commit = ref.read_text().strip() if ref.is_file() else source.revision
    snapshot = repo / "snapshots" / commit
    file = source.file or _quantised(snapshot, source)
    if file is not None:
        parts = [snapshot / name for name in split_parts(file)]
        complete = all(part.is_file() for part in parts)
        total = sum(part.stat().st_size for part in parts) if complete else 0
        return (snapshot / file, "gguf", total) if complete else None
    if source.quantisation is not None:
        return None
    if not snapshot.is_dir() or missing(snapshot):
        return None
    return snapshot, "folder", sum(file.stat().st_size for file in snapshot.glob("*") if file.is_file())


def _quantised(snapshot: Path, source: HubSource) -> str | None:
    """The file of the quantisation that is asked for, None where a snapshot has none or several."""
    if source.quantisation is None:
        return None
    names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*.gguf")]
    with suppress(ModelNotFound):
        return choose(names, source.quantisation, source.spec)
    return None


def _check_folder(folder: Path) -> None:
    absent = missing(folder)
    if not absent:
        return
    found = sorted(file.name for file in folder.glob("*.gguf"))
    if found and "config.json" in absent:
        raise ModelNotFound(
            f"{folder} is a folder with {', '.join(found)}: give the path of the .gguf file itself"
        )
    raise ModelNotFound(
        f"{folder} lacks {', '.join(absent[:4])}{' …' * (len(absent) > 4)}: a model folder holds "
        "config.json, tokenizer.json and *.safetensors"
    )


def _check_file(path: Path) -> None:
    if not path.is_file():  # opening a pipe waits for whoever writes it
        raise WeightsError(f"{path} is no regular file: give a .gguf file, or a folder")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == b"GGUF":
        return
    if path.suffix == ".gguf":
        raise WeightsError(f"{path} is no GGUF file: it does not begin with GGUF; download it again")
    if path.suffix in {".safetensors", ".json"}:
        raise ModelNotFound(f"{path} is one file of a model: give the folder {path.parent} with all of them")
    raise ModelNotFound(
        f"{path} is neither a GGUF file (it does not begin with GGUF) nor a folder with "
        "config.json, tokenizer.json and *.safetensors"
    )


def _shards(index: Path) -> list[str]:
    try:
        return sorted({str(name) for name in json.loads(index.read_bytes())["weight_map"].values()})
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(
            f"{index}: no weight_map can be read from it ({error}); download it again"
        ) from error

"""The catalogue: what a MODEL is, where it comes from, and the way from its name to files on disk.

A model that is in the cache is found without a lock, a hash or the network: `resolve` then takes
milliseconds and imports nothing that fetches.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from sampan.catalog import store
from sampan.catalog.licence import LICENCES
from sampan.catalog.paths import in_hub_cache, open_path
from sampan.catalog.progress import Progress, Silent
from sampan.catalog.source import FORMS, HubSource, Source, parse_source
from sampan.catalog.store import CachedModel
from sampan.core.errors import ModelNotFound, OfflineError, UnsupportedModel, UsageError, quoted
from sampan.core.settings import Settings
from sampan.core.types import Licence, ModelFiles

DEFAULT = "smollm2-135m"
_LONGEST = 200


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue. `bytes`: of the download; `licence`: a key of `licence.LICENCES`.

    What its authors advise: `sampling`, whether it should have a `system_prompt`, and `thought_end`, the
    words that end its reasoning early. `instead`: of a model whose weights were never published, which says
    so and what runs in its place. `published`: the hub's name for a model whose source is elsewhere.
    """

    alias: str
    family: str
    parameters: int | None = None
    licence: str | None = None
    source: str = ""
    bytes: int | None = None
    sha256: str | None = None
    supported: bool = True
    sampling: Mapping[str, float] = field(default_factory=dict, hash=False)
    system_prompt: bool = True
    thought_end: str | None = None
    instead: str | None = None
    published: str | None = None

    @property
    def terms(self) -> Licence | None:
        """The licence in words."""
        return None if self.licence is None else LICENCES[self.licence]


@cache
def entries() -> tuple[Entry, ...]:
    """Every model of the catalogue, in its order."""
    import tomllib

    with Path(__file__).with_name("models.toml").open("rb") as file:
        return tuple(Entry(alias=alias, **fields) for alias, fields in tomllib.load(file).items())


@cache
def _configurations() -> Mapping[str, dict[str, object]]:
    import tomllib

    with Path(__file__).with_name("configs.toml").open("rb") as file:
        return tomllib.load(file)


def configuration(alias: str) -> dict[str, object] | None:
    """The published `config.json` of an entry, as far as it says how the model computes; None where it is not
    known for sure."""
    own = _configurations().get(alias)
    if own is None:
        return None
    like = own.get("like")
    shared = configuration(like) or {} if isinstance(like, str) else {}
    return shared | {name: value for name, value in own.items() if name != "like"}


def find(name: str) -> Entry | None:
    """The entry with this alias (in any case) or this source; None when the catalogue has none."""
    source = parse_source(name)
    if source is not None:
        return next((entry for entry in entries() if entry.source == source.spec), None)
    return next((entry for entry in entries() if entry.alias == name.lower()), None)


def resolve(model: str, settings: Settings, progress: Progress | None = None) -> ModelFiles:
    """The files of MODEL, fetched when they are not there yet.

    An alias wins over a path of the same name; write `./NAME` for the path. Raises `ModelNotFound`,
    `FetchError` (`OfflineError` when the network is forbidden), `UnsupportedModel`, `UsageError` and
    `WeightsError`.
    """
    entry = find(model)
    if entry is not None and entry.instead:
        raise UnsupportedModel(f"{entry.alias}: {entry.instead}")
    if entry is not None and not entry.supported:
        raise UnsupportedModel(f"{entry.alias}: models of the family {entry.family} cannot be run yet")
    source = parse_source(entry.source if entry else model)
    if source is None:
        return _own(model)
    found = _on_disk(source, settings) or _fetched(source, settings, progress or Silent())
    return ModelFiles(path=found.path, kind=found.kind, name=model, source=source.spec)


def cached(model: str, settings: Settings) -> CachedModel | None:
    """What this disk has of MODEL, here or in the hub client's cache; None when it has to be fetched."""
    source = _source(model)
    return _on_disk(source, settings) if source else None


def local(settings: Settings) -> tuple[CachedModel, ...]:
    """Every model in the cache, with its size on disk."""
    return store.everything(settings.home)


def remove(model: str, settings: Settings, progress: Progress | None = None) -> int:
    """Delete MODEL from the cache and return the bytes freed; never a file of the user's own."""
    from sampan.catalog.disk import disk_errors

    source = _source(model)
    if source is None:
        if _exists(_expanded(model)):
            raise UsageError(
                f"{model} is your own file: only models in the cache {settings.home} are removed"
            )
        raise _unknown(model)
    with disk_errors(settings.home), store.locked(settings.home, source, progress or Silent()):
        freed = store.delete(settings.home, source)
    if freed is None and (theirs := _on_disk(source, settings)):
        raise UsageError(f"{model} is in the hub client's cache, {theirs.path}: remove it with `hf cache`")
    if freed is None:
        raise ModelNotFound(f"{model} is not in the cache {settings.home}: `sampan models` shows what is")
    return freed


def _source(model: str) -> Source | None:
    entry = find(model)
    return parse_source(entry.source if entry else model)


def _on_disk(source: Source, settings: Settings) -> CachedModel | None:
    found = store.lookup(settings.home, source)
    if found is not None or not isinstance(source, HubSource):
        return found
    theirs = in_hub_cache(settings.hf_cache, source)
    return CachedModel(source.spec, *theirs) if theirs else None


def _fetched(source: Source, settings: Settings, progress: Progress) -> CachedModel:
    if settings.offline:
        also = f" and {settings.hf_cache}" if isinstance(source, HubSource) and settings.hf_cache else ""
        raise OfflineError(
            f"{source.spec} is not in {settings.home}{also}, and offline mode forbids to fetch it: "
            "unset SAMPAN_OFFLINE and HF_HUB_OFFLINE, or give the path of a model on disk"
        )
    from sampan.catalog.fetch import fetch

    entry = find(source.spec)
    size, sha256 = (entry.bytes, entry.sha256) if entry else (None, None)
    return fetch(source, settings, progress, size=size, sha256=sha256)


def _own(model: str) -> ModelFiles:
    path = _expanded(model)
    if not _exists(path):
        raise _unknown(model)
    return ModelFiles(path=path, kind=open_path(path), name=model, source=str(path))


def _expanded(model: str) -> Path:
    try:
        return Path(model).expanduser()
    except RuntimeError:  # the home of nobody
        return Path(model)


def _exists(path: Path) -> bool:
    # A prompt in the place of a MODEL is too long for a file name, or holds what no name can.
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _unknown(model: str) -> ModelNotFound:
    if len(model) > _LONGEST:
        return ModelNotFound(f"no model is called {quoted(model)}: A MODEL is {FORMS}")
    if Path(model).is_symlink():
        return ModelNotFound(f"{model} is a link to {Path(model).readlink()}, which does not exist")
    if model.endswith((".gguf", "/")) or model.startswith((".", "/", "~")):
        return ModelNotFound(f"{model}: no such file or folder; a MODEL is {FORMS}")
    if model.count("/") == 1 and " " not in model:
        return ModelNotFound(f"{model}: no such file or folder; for the hub's repository write hf:{model}")
    from difflib import get_close_matches

    close = get_close_matches(model.lower(), [entry.alias for entry in entries()], n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    return ModelNotFound(f"no model is called {quoted(model)}: {meant}A MODEL is {FORMS}")

"""Bring a model into the cache: one process at a time for each source, and completely or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sampan.catalog import hub, index, store
from sampan.catalog.disk import disk_errors
from sampan.catalog.progress import Progress
from sampan.catalog.source import HubSource, Source
from sampan.core.errors import FetchError
from sampan.core.settings import Settings


def fetch(
    source: Source,
    settings: Settings,
    progress: Progress,
    *,
    size: int | None = None,
    sha256: str | None = None,
) -> store.CachedModel:
    """Download `source`, or wait for the process that already does.

    `size` (bytes of the download) and `sha256` (of the weights file) are given when the catalogue knows them.
    """
    home = settings.home
    with disk_errors(home), store.locked(home, source, progress):
        found = store.lookup(home, source)
        if found is not None:
            return found
        partial = store.partial(home, source)
        with _nothing_left_when_full(partial):
            partial.mkdir(parents=True, exist_ok=True)
            if isinstance(source, HubSource):
                staged = hub.download(source, partial, settings, progress)
            else:
                staged = index.download(source, partial, progress, size=size, sha256=sha256)
            return store.commit(home, source, staged)


@contextmanager
def _nothing_left_when_full(partial: Path) -> Iterator[None]:
    # Other failures keep a partial download to resume; on a full disk it would only keep the disk full.
    try:
        with disk_errors(partial.parent):
            yield
    except FetchError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:
            shutil.rmtree(partial, ignore_errors=True)
        raise

"""Fetching `hf:` sources, through huggingface_hub's API and its HTTP session.

The listing of one commit says what to fetch, how large it is and which hash it has. Each file is written
to `NAME.part`, verified and renamed; a `.part` found again is resumed (the hub's client starts over).
"""

import io
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, cast

from sampan.catalog.disk import check_space, sync, verify
from sampan.catalog.paths import vocabulary
from sampan.catalog.progress import Progress
from sampan.catalog.quantisations import choose
from sampan.catalog.source import HubSource, safe_member, split_parts
from sampan.catalog.store import Staged
from sampan.core.errors import FetchError, ModelNotFound, SampanError, quoted
from sampan.core.settings import Settings

_WANTED = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "modules.json",
    "config_sentence_transformers.json",
    "[0-9]*_*/config.json",
    "*.safetensors",
    "*.safetensors.index.json",
)
_TIMEOUT = 30.0


@dataclass(frozen=True)
class _File:
    name: str
    size: int
    sha256: str | None


@dataclass(frozen=True)
class _Listing:
    """One commit of a repository; `repo` is its present name when it was renamed."""

    repo: str
    commit: str
    files: tuple[_File, ...]


class _Metered(io.BufferedWriter):
    """A file that reports what is written to it, and what is taken back."""

    def __init__(self, path: Path, progress: Progress) -> None:
        super().__init__(io.FileIO(path, "a"))
        self._progress = progress

    def write(self, data: Any) -> int:
        written = super().write(data)
        self._progress.advance(written)
        return written

    def truncate(self, size: int | None = None) -> int:
        self.flush()
        before = os.fstat(self.fileno()).st_size
        after = super().truncate(size)
        self._progress.advance(after - before)
        return after


def download(source: HubSource, partial: Path, settings: Settings, progress: Progress) -> Staged:
    """Fetch `source` below `partial`; every failure is one `FetchError` or `ModelNotFound`."""
    with _explained(source, settings):
        listing = _list(source, settings)
        first, files = _choose(listing, source)
        staging = partial / listing.commit
        _forget_other_commits(partial, listing.commit)
        staging.mkdir(parents=True, exist_ok=True)
        have = sum(_present(staging, file) for file in files)
        total = sum(file.size for file in files)
        check_space(staging, total - have)
        progress.start(total, f"fetching {source.spec}")
        try:
            progress.advance(have)
            for file in files:
                _fetch(listing, file, staging, settings, progress)
        finally:
            progress.finish()
    return Staged(staging, first, "gguf" if first else "folder")


def _list(source: HubSource, settings: Settings) -> _Listing:
    from huggingface_hub import HfApi

    _quiet()
    api = HfApi(endpoint=_endpoint(settings), token=settings.hf_token, library_name="sampan")
    info = api.model_info(source.repo, revision=source.revision, files_metadata=True, timeout=_TIMEOUT)
    files = tuple(
        _File(sibling.rfilename, sibling.size or 0, sibling.lfs.sha256 if sibling.lfs else None)
        for sibling in info.siblings or ()
        if safe_member(sibling.rfilename)
    )
    return _Listing(info.id, info.sha or source.revision, files)


def _is_ours(name: str) -> bool:
    """A file of the folder itself, a template beside the main one, or the configuration of one of Sentence
    Transformers' modules, such as `1_Pooling`."""
    folder, _, rest = name.rpartition("/")
    if folder[:1].isdecimal():
        return "/" not in folder and rest == "config.json"
    return folder in ("", "additional_chat_templates")


def _choose(listing: _Listing, source: HubSource) -> tuple[str, list[_File]]:
    """FILE, "" for the folder, and the files to take: FILE with its parts, or one complete set of safetensors
    with its configuration."""
    names = [file.name for file in listing.files]
    if source.quantisation is not None:
        first = choose(names, source.quantisation, f"{source.spec}: {listing.repo}")
        return first, _parts(listing, source, first)
    if source.file is not None:
        if source.file not in names:
            raise ModelNotFound(f"{source.spec}: no such file in {listing.repo}{_ggufs(names)}")
        return source.file, _parts(listing, source, source.file)
    forms = (*_WANTED, *vocabulary(names))
    wanted = [file for file in listing.files if any(fnmatch(file.name, form) for form in forms)]
    wanted = [file for file in wanted if _is_ours(file.name)]
    if "model.safetensors" in names:  # the whole model: shards beside it hold it once more
        wanted = [
            file for file in wanted if ".safetensors" not in file.name or file.name == "model.safetensors"
        ]
    elif any(file.name.startswith("model") and file.name.endswith(".safetensors") for file in wanted):
        # Some repositories hold the same weights twice, as model*.safetensors and consolidated*.safetensors.
        wanted = [file for file in wanted if ".safetensors" not in file.name or file.name.startswith("model")]
    absent = [] if "config.json" in names else ["config.json"]
    absent += [] if vocabulary(names) else ["tokenizer.json"]
    if not any(file.name.endswith(".safetensors") for file in wanted):
        absent.append("*.safetensors")
    if absent:
        raise ModelNotFound(f"{source.spec}: {listing.repo} has no {', '.join(absent)}{_ggufs(names)}")
    return "", wanted


def _parts(listing: _Listing, source: HubSource, first: str) -> list[_File]:
    """A GGUF file, or all files of a split model."""
    parts = split_parts(first)
    if first != parts[0]:
        raise ModelNotFound(f"{source.spec}: is one of {len(parts)} parts: name the first, {parts[0]}")
    found = [file for file in listing.files if file.name in parts]
    absent = set(parts) - {file.name for file in found}
    if absent:
        raise ModelNotFound(f"{source.spec}: {listing.repo} lacks {min(absent)}, of {len(parts)} parts")
    return found


def _ggufs(names: list[str]) -> str:
    found = [name for name in names if name.endswith(".gguf")]
    if not found:
        return "; it is not a model that Sampan can read"
    choices = "hf:ORG/NAME:FILE or a quantisation as hf:ORG/NAME:Q4_K_M"
    return f"; choose one of its .gguf files with {choices}: {', '.join(found)}"


def _fetch(listing: _Listing, file: _File, staging: Path, settings: Settings, progress: Progress) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # exported lazily

    target = staging / file.name
    if target.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    url = hf_hub_url(listing.repo, file.name, revision=listing.commit, endpoint=_endpoint(settings))
    headers = build_hf_headers(token=settings.hf_token, library_name="sampan")
    with _Metered(part, progress) as out:
        http_get(url, out, resume_size=out.tell(), headers=headers, expected_size=file.size)
    sync(part)
    if file.sha256 is not None:
        verify(part, file.sha256, f"{listing.repo}/{file.name}")
    part.replace(target)


def _present(staging: Path, file: _File) -> int:
    target, part = staging / file.name, staging / f"{file.name}.part"
    if target.is_file():
        return file.size
    if part.is_file() and part.stat().st_size > file.size:
        part.unlink()
    return part.stat().st_size if part.is_file() else 0


def _forget_other_commits(partial: Path, commit: str) -> None:
    for other in partial.glob("*"):
        if other.name != commit:
            shutil.rmtree(other)


def _endpoint(settings: Settings) -> str | None:
    return settings.hf_endpoint.rstrip("/") if settings.hf_endpoint else None


def _quiet() -> None:
    # One bar and one error line are ours; the client's own bars and warnings would come on top.
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


@contextmanager
def _explained(source: HubSource, settings: Settings) -> Iterator[None]:
    """Turn the client's errors into one line each."""
    # The client reports to its hub which other programs run it, unless it is told not to before its import.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # Its base is the HTTP library's own error: requests before 1.0, httpx after.
    library_error = cast(type[Exception], HfHubHTTPError.__bases__[0])
    try:
        yield
    except SampanError:
        raise
    except HFValidationError as error:
        raise ModelNotFound(f"{source.spec}: {_first_line(error)}") from error
    except HfHubHTTPError as error:
        raise _refused(error, source, settings) from error
    except (OSError, library_error) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise
        raise FetchError(
            f"{source.spec}: {_hub(settings)} cannot be reached, or broke off ({_first_line(error)}): check "
            "the connection, then run the same command again; what was fetched is kept and resumed"
        ) from error


def _refused(error: Any, source: HubSource, settings: Settings) -> SampanError:
    """What an HTTP status of the hub means. Codes: huggingface_hub/utils/_http.py, hf_raise_for_status."""
    status, code = error.response.status_code, error.response.headers.get("X-Error-Code")
    where = f"{source.spec} at {_hub(settings)}"
    if code == "GatedRepo" or status == 403:
        first = "your HF_TOKEN has no access yet" if settings.hf_token else "it needs a token"
        return FetchError(
            f"{where} is gated and {first}: accept its terms on its page, then set HF_TOKEN "
            "to a token of that account"
        )
    if code == "RevisionNotFound":
        return ModelNotFound(f"{where}: no branch, tag or commit {quoted(source.revision)} in {source.repo}")
    if code == "EntryNotFound":
        return ModelNotFound(f"{where}: a listed file is gone ({error.response.url.path}); try again later")
    if status == 401 and code is None and settings.hf_token:
        return FetchError(
            f"{where}: HF_TOKEN was refused (401): set a valid token, or unset it for public models"
        )
    if status in (401, 404):
        return ModelNotFound(
            f"{where}: no such repository, or a private one: check the spelling of {source.repo}; "
            "for a private one set HF_TOKEN"
        )
    if status == 429:
        return FetchError(f"{where}: too many requests (429): wait a few minutes; HF_TOKEN raises the limit")
    return FetchError(f"{where} answered with HTTP {status}: try again later, or set HF_ENDPOINT to a mirror")


def _hub(settings: Settings) -> str:
    from huggingface_hub import constants

    return _endpoint(settings) or str(constants.ENDPOINT)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

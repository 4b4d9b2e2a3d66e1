"""This machine and what is installed on it, as a run notes them."""

import platform
from importlib.metadata import PackageNotFoundError, version

from sampan.catalog.catalog import find
from sampan.core.memory import megabytes, total_memory
from sampan.core.types import ModelFiles
from sampan.kernels.cpu.backend import CpuBackend
from sampan.kernels.cpu.tuning import processor
from sampan.llm.model import LLM
from sampan.weights.merge.card import licence_of

_LICENCES = ("apache-2.0", "mit", "llama3.1")
_PACKAGES = ("sampan", "torch", "numpy", "tokenizers", "reasoning-gym")


def versions() -> dict[str, str]:
    """Of Python and the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def licence(files: ModelFiles) -> str | None:
    """Of a model by the catalogue, or else by the card in its folder; the hubs' names know no two at once."""
    entry = find(files.name)
    if entry is not None and entry.licence:
        return entry.licence if entry.licence in _LICENCES else "other"
    return licence_of(files.path if files.path.is_dir() else files.path.parent).get("license")


def machine(llm: LLM) -> dict[str, str]:
    """As `sampan doctor` sees it, without what takes seconds to measure."""
    memory = total_memory()
    return {
        "processor": processor(),
        "kernels": llm.backend.machine.isa if isinstance(llm.backend, CpuBackend) else llm.backend.name,
        "threads": str(llm.tuning.threads),
        "memory": "?" if memory is None else megabytes(memory),
        "system": f"{platform.system()} {platform.machine()}",
    }

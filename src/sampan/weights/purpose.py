"""What a checkpoint is made for besides answering: vectors of texts, or an order of documents.

A folder says the first as Sentence Transformers do (`modules.json`, `1_Pooling/config.json`); a GGUF file
says both by `ARCHITECTURE.pooling_type` (llama.cpp). Qwen3-Reranker's folder says nothing but its name.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sampan.core.errors import UnsupportedModel, WeightsError, quoted
from sampan.core.types import Pooling
from sampan.models.fields import Fields
from sampan.weights.files import is_there
from sampan.weights.safetensors import read_json

MODULES = "modules.json"
PROMPTS = "config_sentence_transformers.json"

_GGUF_POOLING: Mapping[int, Pooling | None] = {0: None, 1: "mean", 3: "last"}
_GGUF_RANK = 4
_PACKAGE = "sentence_transformers.models"
_MODES: Mapping[str, Pooling] = {
    "lasttoken": "last",
    "pooling_mode_lasttoken": "last",
    "mean": "mean",
    "pooling_mode_mean_tokens": "mean",
}


@dataclass(frozen=True)
class Purpose:
    """`pooling`: how a text becomes a vector, None for a model that is not made for it. `normalize`: vectors
    have the length 1. `prompts`: what goes before a text, by the kind of text. `reranks`: says "yes" or "no"
    to a query and a document."""

    pooling: Pooling | None = None
    normalize: bool = True
    prompts: Mapping[str, str] = field(default_factory=dict)
    reranks: bool = False


def of_gguf(metadata: Mapping[str, object], source: Path) -> Purpose:
    """Of a GGUF file's key values."""
    architecture = metadata.get("general.architecture")
    kind = metadata.get(f"{architecture}.pooling_type")
    name = str(metadata.get("general.name", source.name))
    if kind is None:
        return Purpose(reranks=_is_reranker(name, source))
    number = int(kind) if isinstance(kind, int) else -1
    if number == _GGUF_RANK:
        return Purpose(reranks=True)
    if number not in _GGUF_POOLING:
        raise UnsupportedModel(
            f"{source}: {architecture}.pooling_type {quoted(kind)} is not supported: "
            "1 (mean), 3 (last) and 4 (rank) are"
        )
    return Purpose(_GGUF_POOLING[number])


def of_folder(folder: Path) -> Purpose:
    """Of a folder of safetensors."""
    if not is_there(folder / MODULES):
        return Purpose(reranks=_is_reranker(folder.name, folder))
    modules = _modules(folder / MODULES)
    kinds = [kind for kind, _ in modules]
    if kinds[-1] == "LogitScore":
        return Purpose(reranks=True)
    pooling, normalize = None, False
    for kind, path in modules[1:]:
        if kind == "Pooling" and pooling is None:
            pooling = _pooling(folder / path / "config.json")
        elif kind == "Normalize" and pooling is not None:
            normalize = True
        else:
            raise UnsupportedModel(
                f"{folder / MODULES}: module {quoted(kind)} is not supported here: Pooling and Normalize are"
            )
    if kinds[0] != "Transformer" or pooling is None:
        raise UnsupportedModel(
            f"{folder / MODULES}: needs a Transformer and a Pooling, has {', '.join(kinds)}"
        )
    return Purpose(pooling, normalize, _prompts(folder / PROMPTS))


def write(purpose: Purpose, folder: Path) -> None:
    """Say it in a folder that does not say it yet, and whose name may be another."""
    if is_there(folder / MODULES) or not (purpose.pooling or purpose.reranks):
        return
    kinds = ["Transformer", "LogitScore"]
    if purpose.pooling:
        kinds = ["Transformer", "Pooling", *(["Normalize"] if purpose.normalize else [])]
        (folder / "1_Pooling").mkdir()
        modes = ("pooling_mode_lasttoken", "pooling_mode_mean_tokens")
        flags = {mode: _MODES[mode] == purpose.pooling for mode in modes}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(flags, indent=2))
    modules = [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}" if n else "", "type": f"{_PACKAGE}.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (folder / MODULES).write_text(json.dumps(modules, indent=2))


def _is_reranker(name: str, path: Path) -> bool:
    return any("rerank" in part.lower() for part in (name, path.name, *path.parts[-4:-1]))


def _modules(path: Path) -> list[tuple[str, str]]:
    """The kind and the folder of each module, in their order."""
    try:
        listed = json.loads(path.read_text("utf-8"))
        found = [(str(each["type"]).rpartition(".")[2], str(each.get("path") or "")) for each in listed]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{path}: is no list of modules with a type each: fetch the model again"
        ) from error
    if not found or any(".." in Path(part).parts or Path(part).is_absolute() for _, part in found):
        raise WeightsError(f"{path}: names no modules, or some outside of the folder")
    return found


def _pooling(path: Path) -> Pooling:
    """Of a Pooling's configuration: flags, or in its newer form one name."""
    fields = Fields(read_json(path), str(path))
    if "pooling_mode" in fields:
        modes = [fields.text("pooling_mode")]
    else:
        modes = [
            name for name, on in fields.values.items() if name.startswith("pooling_mode_") and on is True
        ]
    if len(modes) != 1 or modes[0] not in _MODES:
        raise UnsupportedModel(
            f"{path}: pooling {quoted(', '.join(modes) or 'none')} is not supported: lasttoken and mean are"
        )
    pooling = _MODES[modes[0]]
    if pooling == "mean" and not fields.flag("include_prompt", True):
        raise UnsupportedModel(f"{path}: include_prompt false is not supported: means are over all tokens")
    return pooling


def _prompts(path: Path) -> Mapping[str, str]:
    if not is_there(path):
        return {}
    prompts = read_json(path).get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise WeightsError(f"{path}: prompts is {quoted(prompts)}: it should hold texts by name")
    return prompts

"""The model card of a merged model: its base with its licence, the adapters, and how it was made."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sampan.weights.merge.adapter import Adapter

_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_LONGEST = 2**16  # characters of an adapter's own card
_LICENCE = re.compile(r"^(license(?:_name|_link)?):[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Base:
    """The model that was merged into. `licence`: its fields of a card; `terms`: the same in words."""

    name: str
    licence: Mapping[str, str]
    terms: str = ""


def licence_of(folder: Path) -> dict[str, str]:
    """What the card of a model's folder says of its licence."""
    try:
        text = (folder / "README.md").read_text("utf-8")
    except (OSError, ValueError):
        return {}
    front = _FRONT.match(text)
    return dict(_LICENCE.findall(front[1])) if front else {}


def card(name: str, base: Base, adapters: Sequence[Adapter], dtype: str, version: str) -> str:
    """The `README.md`. Places on this disk are told by their last part."""
    front = {
        "base_model": base.name,
        **base.licence,
        "library_name": "transformers",
        "tags": ["merged", "lora"],
    }
    lines = ["---", *(f"{key}: {_yaml(value)}" for key, value in front.items()), "---", "", f"# {name}", ""]
    lines += [
        f"`{base.name}` with {len(adapters)} adapter{'s' * (len(adapters) != 1)} merged into its weights."
    ]
    lines += ["", "| adapter | scale | rank | trained on |", "|---|---|---|---|"] if adapters else []
    for adapter in adapters:
        ranks = ", ".join(map(str, sorted(adapter.ranks))) or "none"
        trained = str(adapter.config.get("base_model_name_or_path") or "not told")
        lines += [
            f"| {Path(adapter.where).name} | {adapter.scale:g} | {ranks} | {_plain(Path(trained).name)} |"
        ]
    told = base.licence.get("license_name") or base.licence.get("license") or "not told by its files"
    lines += ["", f"Licence of the base: {told}. {base.terms}".rstrip()]
    lines += ["", f"Weights: {dtype}. Made with `sampan merge`, version {version}."]
    for adapter in adapters:
        lines += [f"- passed over of {Path(adapter.where).name}: {_plain(each)}" for each in adapter.passed]
    for adapter in adapters:
        lines += _own(Path(adapter.where))
    return "\n".join(lines) + "\n"


def _own(folder: Path) -> list[str]:
    """The card that an adapter's folder has, such as a run's: how it was trained."""
    try:
        text = (folder / "README.md").read_text("utf-8")[:_LONGEST]
    except (OSError, ValueError):
        return []
    return [
        "",
        f"## How {folder.name} was trained",
        "",
        re.sub(r"^#", "###", _FRONT.sub("", text), flags=re.M).strip(),
    ]


def _yaml(value: object) -> str:
    """JSON is YAML; words stand for themselves."""
    text = str(value)
    return text if isinstance(value, str) and re.fullmatch(r"[\w./:-]*[\w/-]", text) else json.dumps(value)


def _plain(text: str) -> str:
    return text.replace("|", " ").replace("\n", " ")[:200]

"""What PEFT's `adapter_config.json` says of a LoRA adapter: each module's rank and scale.

What would ask for more than y + scale * B (A x) is refused by name: other methods, DoRA, biases, trained
embeddings, initialisations that change the base model, and every field that this version does not know,
unless it is off. Values are not repeated: a service tells these errors to its clients.
"""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sampan.core.errors import UnsupportedModel, quoted
from sampan.models.fields import Fields
from sampan.weights.safetensors import read_json

_READ = ("peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "rank_pattern", "alpha_pattern")
# Fields of PEFT's LoraConfig that say how an adapter was trained, or what the file shows anyway.
_IRRELEVANT = frozenset(
    (
        *_READ, "auto_mapping", "base_model_name_or_path", "eva_config", "exclude_modules", "inference_mode",
        "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_dropout", "megatron_core",
        "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
    )
)  # fmt: skip
_INITIALISATIONS = (True, False, "gaussian", "orthogonal", "eva")  # the others change the base model
_MAX_SCALE = 1e6


@dataclass(frozen=True)
class Scales:
    """What the configuration says of ranks and scales; patterns by the end of a module's name."""

    fields: Fields
    rank: int
    alpha: float
    ranks: Fields
    alphas: Fields
    root: bool

    @classmethod
    def read(cls, path: Path) -> "Scales":
        fields = Fields(read_json(path), str(path))
        _refuse_other_kinds(fields)
        ranks, alphas = fields.section("rank_pattern"), fields.section("alpha_pattern")
        for name, section in (("rank_pattern", ranks), ("alpha_pattern", alphas)):
            wrong = next((key for key in section.values if not re.fullmatch(r"\^?(\w|\\?\.)+", key)), None)
            if wrong is not None:
                raise UnsupportedModel(
                    f"{path}: {name} has the expression {quoted(wrong)}: write plain module names"
                )
        rank = fields.integer("r", high=2**16)
        alpha = fields.number("lora_alpha", low=0, high=1e9)
        return cls(fields, rank, alpha, ranks, alphas, fields.flag("use_rslora", False))

    def of(self, module: str) -> tuple[int, float]:
        """A module's rank and scale."""
        key = _matching(self.ranks, module)
        rank = self.rank if key is None else self.ranks.integer(key, high=2**16)
        key = _matching(self.alphas, module)
        alpha = self.alpha if key is None else self.alphas.number(key, low=0, high=1e9)
        scale = alpha / (math.sqrt(rank) if self.root else rank)
        if scale > _MAX_SCALE:
            raise self.fields.fail(
                "lora_alpha", f"gives {quoted(module)} a scale of {scale:g}: the most is {_MAX_SCALE:g}"
            )
        return rank, scale

    def check_targets(self, modules: Collection[str], file: str) -> None:
        """Every target that is named has tensors, and every tensor's module is a target."""
        targets = self.fields.values.get("target_modules")
        if targets is None or isinstance(targets, str):
            return  # an expression: the file shows what it chose
        if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
            raise self.fields.fail("target_modules", "must be a list of module names, or a text")
        for target in targets:
            if not any(_ends(module, target) for module in modules):
                problem = f"names {quoted(target)}, and {file} has no tensor for it"
                raise self.fields.fail("target_modules", problem)
        for module in modules:
            if not any(_ends(module, target) for target in targets):
                raise self.fields.fail(
                    "target_modules", f"does not name {quoted(module)}, which {file} has tensors for"
                )


def _refuse_other_kinds(fields: Fields) -> None:
    """Anything that asks for more than y + scale * B (A x)."""
    if fields.text("peft_type") != "LORA":
        raise UnsupportedModel(f"{fields.source}: peft_type is not LORA: only LoRA adapters can be loaded")
    start = fields.values.get("init_lora_weights", True)
    if start is not None and not any(start is known or start == known for known in _INITIALISATIONS):
        problem = (
            "changes the base model: convert the adapter with PEFT (path_initial_model_for_weight_conversion)"
        )
        raise UnsupportedModel(f"{fields.source}: init_lora_weights {problem}")
    for name, value in fields.values.items():
        asks = value not in (None, False, "none", "", 0) and value not in ([], {})
        if asks and name not in _IRRELEVANT:
            raise UnsupportedModel(
                f"{fields.source}: asks for {quoted(name)}, which is not supported: "
                "train the adapter without it"
            )


def _ends(module: str, name: str) -> bool:
    return module == name or module.endswith("." + name)


def _matching(section: Fields, module: str) -> str | None:
    """The first pattern that is a module's name or its end (PEFT's `get_pattern_key`)."""

    def matches(key: str) -> bool:
        name = key.removeprefix("^").replace("\\.", ".")
        return module == name if key.startswith("^") else _ends(module, name)

    return next(filter(matches, section.values), None)

"""What PEFT's `adapter_config.json` says of a LoRA adapter: which modules it adapts, and each one's rank and
scale.

What would ask for more than y + scale * B (A x) is refused by name: other methods, DoRA, trained embeddings,
initialisations that change the base model, and every field that this version does not know, unless it is
off. For merging (`weights/merge`) several of these are taken. Values are not repeated: a service tells these
errors to its clients.
"""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import regex

from sampan.core.errors import UnsupportedModel, quoted
from sampan.models.fields import Fields
from sampan.weights.safetensors import read_json

MERGE = "merge it (`sampan merge MODEL OUT --adapter …`) and load the merged model"
_READ = (
    "peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules", "rank_pattern",
    "alpha_pattern",
)  # fmt: skip
# Fields of PEFT's LoraConfig that say how an adapter was trained, or what the file shows anyway.
_IRRELEVANT = frozenset(
    (
        *_READ, "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
        "eva_config", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
        "layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core",
        "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
    )
)  # fmt: skip
# Why an adapter that asks for one of these cannot be added beside the base model.
_WHY = {
    "use_dora": "DoRA scales the rows of the base weights themselves",
    "modules_to_save": "it brings whole modules (an embedding, a head or norms) in the place of the model's",
    "trainable_token_indices": "it brings new rows of the embedding",
    "lora_bias": "its products have biases of their own",
    "target_parameters": "it adapts whole tensors of experts",
}
_INITIALISATIONS = (True, False, "gaussian", "orthogonal", "eva")  # the others change the base model
_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")
RESIDUALS = ("pissa", "olora")  # which merging finds again from the base model alone
_MAX_SCALE = 1e6
_MAX_EXPRESSION, _SECONDS = 4096, 1.0  # characters of an expression; what all matching may take


@dataclass(frozen=True)
class Scales:
    """What the configuration says of modules, ranks and scales. `targets`, `excluded`: an expression for a
    module's whole name, or ends of names; no targets: all."""

    fields: Fields
    rank: int
    alpha: float
    ranks: Fields
    alphas: Fields
    root: bool
    targets: str | tuple[str, ...]
    excluded: str | tuple[str, ...]
    expressions: "_Expressions" = field(default_factory=lambda: _Expressions())

    @classmethod
    def read(cls, path: Path, *, merging: bool = False) -> "Scales":
        fields = Fields(read_json(path), str(path))
        _refuse_other_kinds(fields, merging)
        ranks, alphas = fields.section("rank_pattern"), fields.section("alpha_pattern")
        rank = fields.integer("r", high=2**16)
        alpha = fields.number("lora_alpha", low=0, high=1e9)
        targets, excluded = _names(fields, "target_modules"), _names(fields, "exclude_modules")
        root = fields.flag("use_rslora", False)
        return cls(fields, rank, alpha, ranks, alphas, root, targets, excluded)

    def of(self, module: str) -> tuple[int, float]:
        """A module's rank and scale."""
        key = self._pattern("rank_pattern", self.ranks, module)
        rank = self.rank if key is None else self.ranks.integer(key, high=2**16)
        key = self._pattern("alpha_pattern", self.alphas, module)
        alpha = self.alpha if key is None else self.alphas.number(key, low=0, high=1e9)
        scale = alpha / (math.sqrt(rank) if self.root else rank)
        if scale > _MAX_SCALE:
            raise self.fields.fail(
                "lora_alpha", f"gives {quoted(module)} a scale of {scale:g}: the most is {_MAX_SCALE:g}"
            )
        return rank, scale

    def adapts(self, module: str) -> bool:
        """Whether PEFT gives this module what the file has for it (`check_target_module_exists`)."""
        if self._named("exclude_modules", self.excluded, module):
            return False
        if self.adapts_parameter(f"{module}.weight"):
            return True
        every = not self.targets and not self.parameters
        return every or self._named("target_modules", self.targets, module)

    def adapts_parameter(self, name: str) -> bool:
        """Whether `target_parameters` names a tensor."""
        return any(_ends(name, each) for each in self.parameters)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Ends of names of tensors that are adapted themselves."""
        named = _names(self.fields, "target_parameters")
        return (named,) if isinstance(named, str) and named else tuple(named)

    @property
    def residual(self) -> str | None:
        """The initialisation that took something away from the base model."""
        start = self.fields.values.get("init_lora_weights", True)
        return start.lower() if isinstance(start, str) and start.lower() in RESIDUALS else None

    def without(self, modules: list[str]) -> list[str]:
        """Targets that none of these modules has the name of."""
        if isinstance(self.targets, str):
            return []
        return [name for name in self.targets if not any(_ends(module, name) for module in modules)]

    def _named(self, field: str, names: str | tuple[str, ...], module: str) -> bool:
        if isinstance(names, str):
            every = field == "target_modules" and names == "all-linear"
            return every or (bool(names) and self._matches(field, names, module))
        return any(_ends(module, name) for name in names)

    def _pattern(self, field: str, section: Fields, module: str) -> str | None:
        """The first expression for a module's name or its end (PEFT's `get_pattern_key`)."""
        return next((k for k in section.values if self._matches(field, rf"(.*\.)?({k})", module)), None)

    def _matches(self, field: str, expression: str, module: str) -> bool:
        return self.expressions.match(f"{self.fields.source}: {field}", expression, module)


class _Expressions:
    """Matches expressions of a stranger's file, which may take no longer than others do."""

    def __init__(self) -> None:
        self._left = _SECONDS

    def match(self, where: str, expression: str, name: str) -> bool:
        """Whether it is one of the whole name."""
        if len(expression) > _MAX_EXPRESSION:
            raise UnsupportedModel(f"{where} has an expression of more than {_MAX_EXPRESSION} characters")
        begin = time.thread_time()
        try:
            return regex.fullmatch(expression, name, timeout=max(self._left, 0.001)) is not None
        except TimeoutError:
            raise UnsupportedModel(f"{where} has an expression that takes too long: write names") from None
        except (regex.error, OverflowError, RecursionError, MemoryError):
            raise UnsupportedModel(f"{where} has an expression that cannot be read: write names") from None
        finally:
            self._left -= time.thread_time() - begin


def _names(fields: Fields, name: str) -> str | tuple[str, ...]:
    """An expression, or ends of modules' names."""
    given = fields.values.get(name)
    if given is None or isinstance(given, str):
        return given or ()
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise fields.fail(name, "must be a list of module names, or a text")
    return tuple(given)


def _refuse_other_kinds(fields: Fields, merging: bool) -> None:
    """Anything that asks for more than y + scale * B (A x), or than what merging knows."""
    if fields.text("peft_type") != "LORA":
        raise UnsupportedModel(f"{fields.source}: peft_type is not LORA: only LoRA adapters can be loaded")
    start = fields.values.get("init_lora_weights", True)
    if start is not None and not any(start is known or start == known for known in _INITIALISATIONS):
        named = next((each for each in _CHANGING if str(start).lower().startswith(each)), "another method")
        found = str(start).lower() in RESIDUALS
        if not (merging and found):
            raise UnsupportedModel(
                f"{fields.source}: init_lora_weights ({named}) changes the base model before training, and "
                "this adapter fits that one alone: convert it with PEFT (`save_pretrained` with "
                f"`path_initial_model_for_weight_conversion`){f', or {MERGE}' if found else ''}"
            )
    for name, value in fields.values.items():
        asks = value not in (None, False, "none", "", 0) and value not in ([], {})
        if asks and name not in _IRRELEVANT and not (merging and name in _WHY):
            why = f": {_WHY[name]}: {MERGE}, or" if name in _WHY else ":"
            raise UnsupportedModel(
                f"{fields.source}: asks for {quoted(name)}, which is not supported{why} "
                "train the adapter without it"
            )


def _ends(module: str, name: str) -> bool:
    return module == name or module.endswith("." + name)

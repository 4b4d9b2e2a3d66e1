"""What drafts beside a model: the checkpoint's own layer or a small model, as wished and as there is.

Both are executables on the main model's pages. The layer shares the main model's embedding and head, so that
it is placed with the main model's weights; a small model brings a checkpoint of its own.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from sampan.core.errors import UnsupportedModel, UsageError, quoted
from sampan.core.settings import whole_number
from sampan.core.types import ModelFiles
from sampan.engine.drafter import ModelDrafter
from sampan.kernels.backend import Backend, CacheSize, Needs, Tuning
from sampan.kernels.graph import LOGITS, Graph
from sampan.kernels.ops import HIDDEN, STATES
from sampan.kernels.tensors import Tensors
from sampan.models.config import ModelConfig
from sampan.models.registry import describe
from sampan.text.tokenizer import Tokenizer
from sampan.weights.checkpoint import Checkpoint, open_checkpoint

Kind = Literal["auto", "mtp", "lookup", "none"]
KINDS = ("auto", "mtp", "lookup", "none")
DEPTH, MOST = 3, 8
CONFIDENCE = 0.5
CHUNK = 256  # rows of a step of what drafts
_AT_ONCE = 16  # sequences that it drafts for in one step, at most


@dataclass(frozen=True)
class DraftWish:
    """What a user asks for; None leaves it to the machine. `kind`: "auto" is the checkpoint's layer where it
    has one, and prompt lookup; each of these two alone; or "none". `model`: a small model in the layer's
    place. `tokens`: of a draft, at most. `confidence`: the least probability of a drafted token."""

    kind: Kind = "auto"
    model: ModelFiles | None = None
    tokens: int | None = None
    confidence: float | None = None

    @property
    def lookup(self) -> bool:
        """Prompt lookup drafts."""
        return self.kind in ("auto", "lookup")

    def rows(self, cheap: int, *, drafted: bool) -> int:
        """Up to which a step is filled: a model's draft for one sequence always has room."""
        if self.kind == "none":
            return 0
        return max(cheap, 1 + self.depth) if drafted else cheap

    @property
    def depth(self) -> int:
        """Tokens of a draft."""
        return self.tokens or DEPTH

    @property
    def least(self) -> float:
        """Probability of a drafted token."""
        return CONFIDENCE if self.confidence is None else self.confidence


def check_draft(
    draft: object, model: object, tokens: object, confidence: object, *, speculation: bool
) -> None:
    """`UsageError` for values that mean nothing, alone or together."""
    if draft not in KINDS:
        raise UsageError(f"draft is {quoted(draft)}: give one of {', '.join(KINDS)}")
    if tokens is not None:
        whole_number("draft_tokens", tokens, 1, MOST)
    number = isinstance(confidence, int | float) and not isinstance(confidence, bool)
    if confidence is not None and not (number and 0 <= confidence <= 1):  # type: ignore[operator]
        raise UsageError(f"draft_confidence is {quoted(confidence)}: give a number from 0 to 1")
    if model is not None and draft != "auto":
        raise UsageError(f"draft is {quoted(draft)} beside a draft_model: give one of them")
    asked = {"draft_model": model, "draft_tokens": tokens, "draft_confidence": confidence}
    given = [name for name, value in asked.items() if value is not None]
    if given and draft in ("lookup", "none"):
        raise UsageError(f"{given[0]} means nothing with draft {quoted(draft)}: leave one of them out")
    if not speculation and (given or draft not in ("auto", "none")):
        raise UsageError(f"speculation is off, and {given[0] if given else 'draft'} is given: leave one out")


@dataclass(frozen=True, eq=False)
class Beside:
    """What drafts, before it is compiled. `needs`: its own. `tensors`: its own, None where they are the main
    model's."""

    name: str
    graph: Graph
    config: ModelConfig
    needs: Needs
    tensors: Tensors | None = None

    def needs_with(self, main: Needs) -> Needs:
        """Of both together."""
        own = self.needs
        both = sum({**main.parts, **own.parts}.values())  # the same names are the same weights
        return replace(
            main,
            weights=both if self.tensors is None else main.weights + own.weights,
            workspace=main.workspace + own.workspace + own.logits * _AT_ONCE,
            page={kind: main.page[kind] + own.page[kind] for kind in main.page if kind in own.page},
        )

    def main_graph(self, config: ModelConfig) -> Graph:
        """What the main model computes: the states too, for a layer that reads them."""
        model = describe(config)
        if self.tensors is not None:
            return model.graph(LOGITS)
        return model.graph(LOGITS, HIDDEN).of_every_row(HIDDEN, STATES)

    def compile(
        self, backend: Backend, weights: Any, cache: CacheSize, chosen: Tuning, wish: DraftWish
    ) -> ModelDrafter:
        """On the main model's weights, or on its own."""
        placed = weights if self.tensors is None else backend.place(self.tensors, self.needs.weights)
        executable = backend.compile(self.graph, placed, cache, CHUNK, None, chosen)
        return ModelDrafter(
            executable, name=self.name, depth=wish.depth, confidence=wish.least, states=self.tensors is None,
            context=self.config.context, vocabulary=self.config.vocab,
        )  # fmt: skip


def beside(
    checkpoint: Checkpoint,
    wish: DraftWish,
    backend: Backend,
    tokenizer: Tokenizer,
    stack: ExitStack,
    *,
    on_disk: bool,
) -> Beside | None:
    """What drafts for this model; None where that is prompt lookup alone. Raises `UsageError` and
    `UnsupportedModel` for what was asked for and is not there. `stack` closes its files. `on_disk`: experts
    are read as they are needed, and each row of a draft would read its own."""
    asked = wish.kind == "mtp" or wish.model is not None or wish.tokens is not None
    if checkpoint.purpose.pooling is not None or not backend.exact or on_disk:
        if asked:
            why = "beside experts on disk" if on_disk else f"by backend {backend.name}"
            if checkpoint.purpose.pooling is not None:
                why = "for an embedding model"
            raise UsageError(f"{checkpoint.where}: nothing is drafted {why}")
        return None
    if wish.model is not None:
        return _model(wish.model, backend, tokenizer, stack)
    if not checkpoint.drafts or wish.kind not in ("auto", "mtp"):
        if asked or wish.confidence is not None:
            raise UnsupportedModel(
                f"{checkpoint.where}: has no layer for multi-token prediction: take draft 'lookup', or a "
                "draft_model of the same vocabulary"
            )
        return None
    layer = describe(checkpoint.config).draft()
    assert layer is not None
    graph = layer.graph(LOGITS, HIDDEN)
    backend.check(graph, checkpoint.where)
    return Beside("mtp", graph, checkpoint.config, backend.needs(graph, checkpoint, CHUNK, None))


def _model(files: ModelFiles, backend: Backend, tokenizer: Tokenizer, stack: ExitStack) -> Beside:
    checkpoint = open_checkpoint(files)
    for file in checkpoint.files.values():
        stack.callback(file.close)
    if checkpoint.purpose.pooling is not None:
        raise UsageError(f"draft_model {files.name} is an embedding model: it gives no tokens")
    own = tokenizer_of(files, checkpoint)
    if own.entries() != tokenizer.entries():
        raise UsageError(
            f"draft_model {files.name} has another vocabulary: a token must mean the same to both models"
        )
    graph = describe(checkpoint.config).graph(LOGITS)
    backend.check(graph, checkpoint.where)
    if graph.states():
        raise UnsupportedModel(
            f"draft_model {files.name} carries a state, which a draft would change: it cannot draft"
        )
    tensors = replace(checkpoint, metadata=MappingProxyType({}))
    return Beside("model", graph, checkpoint.config, backend.needs(graph, tensors, CHUNK, None), tensors)


def tokenizer_of(files: ModelFiles, checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer of a model."""
    if files.kind == "gguf":
        return Tokenizer.from_gguf(checkpoint.metadata)
    return Tokenizer.from_folder(files.path)

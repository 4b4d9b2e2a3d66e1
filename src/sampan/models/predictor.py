"""Multi-token prediction (arXiv:2412.19437, 2.2): a layer behind a model's last one guesses a token more.

Row t takes the token behind it, t+1, and the state of row t: the model's after its final norm, or from the
second guess on the layer's own after its norm. The paper leaves open on which side of the final norm the
state is taken; those who serve the published checkpoints take it behind the norm. Embedding and head are the
model's own: a checkpoint that stores them again stores copies.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sampan.kernels.ops import HIDDEN, Batch, Linear, Norm, Ops, Weight
from sampan.models.config import ModelConfig

L = TypeVar("L")


@dataclass(frozen=True)
class Predictor(Generic[L]):
    """`mix`: of the embedding and the state, each after its norm, one behind the other."""

    embed: Weight
    embed_norm: Norm
    state_norm: Norm
    mix: Linear
    layer: L
    norm: Norm
    head: Linear


def begun(ops: Ops, model: Predictor[Any], batch: Batch) -> Any:
    """What goes into the layer [T, H]."""
    hidden = model.embed.shape[1]
    token = ops.norm(ops.embed(model.embed, batch.ids), model.embed_norm)
    state = ops.norm(ops.given(batch.given, hidden), model.state_norm)
    return ops.linear(ops.concat((token, state)), model.mix)


def ended(ops: Ops, model: Predictor[Any], x: Any) -> Any:
    """Logits of the layer's sampled rows, and the state that the next guess starts from."""
    return ops.head(ops.keep(ops.norm(x, model.norm), HIDDEN), model.head)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A family's layer for drafts. `build`: its description for a configuration; `forward`: what it computes;
    `owns(name, config)`: whether a tensor of the file is such a layer's."""

    build: Callable[[Any], Any]
    forward: Callable[[Ops, Any, Batch], Any]
    owns: Callable[[str, ModelConfig], bool]


def behind_the_last(name: str, config: ModelConfig) -> bool:
    """Of a layer whose number is beyond the model's."""
    layer = name.removeprefix("model.layers.").partition(".")[0]
    return name.startswith("model.layers.") and layer.isdecimal() and int(layer) >= config.layers

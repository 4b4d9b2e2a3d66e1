"""Training of the weights themselves, all or some.

The numbers that an optimizer changes are float32, so that small steps add up; what computes, sampler and
trainer alike, has them rounded to the type that the model was loaded in. A new version is written over the
old one in place, where both read it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sampan.core.errors import UsageError, quoted
from sampan.kernels.backend import AdapterRoom, Executable
from sampan.kernels.graph import Graph
from sampan.llm.model import LLM
from sampan.train.lora import LowRank
from sampan.weights.checkpoint import Checkpoint
from sampan.weights.in_floats import Dtype
from sampan.weights.update import from_arrays

TYPES: Mapping[Dtype, torch.dtype] = {"f32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Full:
    """Weights are trained, not an adapter. `modules`: whose ("q_proj", "input_layernorm", "embed_tokens" …),
    of every layer; none: all. `dtype`: of the products, in the engine and in the backward pass; the numbers
    that add up are float32 either way."""

    modules: tuple[str, ...] = ()
    dtype: Dtype = "bf16"

    def __post_init__(self) -> None:
        """`UsageError` by the field's name."""
        if self.dtype not in TYPES:
            raise UsageError(f"full.dtype is {quoted(self.dtype)}: give 'f32' or 'bf16'")


@dataclass(frozen=True, eq=False)
class FullWeights:
    """`masters`: by Hugging Face's names, float32; gradients go to these. `dtype`: see `Full`."""

    masters: Mapping[str, Tensor]
    dtype: Dtype

    name: ClassVar[None] = None
    """Requests to the engine choose no adapter."""
    room: ClassVar[AdapterRoom | None] = None
    slot: ClassVar[int] = -1
    low_ranks: ClassVar[Mapping[str, LowRank]] = {}

    @classmethod
    def begin(cls, checkpoint: Checkpoint, graph: Graph, how: Full) -> "FullWeights":
        """The file's own numbers. Raises `UsageError` for modules that the model lacks."""
        weights = graph.weights()
        missing = set(how.modules) - {module_of(name) for name in weights}
        if missing:
            raise UsageError(
                f"full.modules: the model has no {', '.join(sorted(missing))}: it has "
                f"{', '.join(sorted({module_of(name) for name in weights}))}"
            )
        masters = {}
        for name in chosen(weights, how.modules):
            masters[name] = torch.from_numpy(checkpoint.array(name)).requires_grad_()
            checkpoint.release(name)
        return cls(masters, how.dtype)

    @property
    def parameters(self) -> list[Tensor]:
        """What an optimizer changes."""
        return list(self.masters.values())

    @property
    def named(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return dict(self.masters)

    @property
    def learnt(self) -> Mapping[str, Tensor]:
        """The weights that gradients go to."""
        return self.masters

    def publish(self, llm: LLM, trainer: Executable) -> int:
        """Write the numbers over the weights that the engine and `trainer` share, once nobody is being
        answered; returns the version that they make. Nothing that older ones computed is found again."""
        arrays = {name: master.detach().numpy() for name, master in self.masters.items()}
        version = llm.update_weights(arrays)
        # Matrices are shared; of biases each program has a copy.
        trainer.update(from_arrays({name: values for name, values in arrays.items() if values.ndim == 1}))
        return version


def chosen(names: Collection[str], modules: Collection[str]) -> list[str]:
    """The weights of these modules, or all."""
    return [name for name in names if not modules or module_of(name) in modules]


def module_of(name: str) -> str:
    """ "q_proj" of `model.layers.0.self_attn.q_proj.weight`."""
    return name.split(".")[-2]

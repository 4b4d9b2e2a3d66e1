"""What is trained: an adapter beside weights that stay, or the weights themselves."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from sampan.kernels.backend import AdapterRoom, Executable
from sampan.llm.model import LLM
from sampan.train.lora import LowRank


class Trained(Protocol):
    """Numbers that an optimizer changes, and how they come to be what tokens are sampled with."""

    @property
    def name(self) -> str | None:
        """Of the adapter that requests to the engine choose."""

    @property
    def room(self) -> AdapterRoom | None:
        """That the trainer's program needs for it."""

    @property
    def slot(self) -> int:
        """Of the adapter there, -1 for none."""

    @property
    def parameters(self) -> list[Tensor]:
        """What an optimizer changes."""

    @property
    def named(self) -> dict[str, Tensor]:
        """The same by the names that a checkpoint has."""

    @property
    def low_ranks(self) -> Mapping[str, LowRank]:
        """By the weight that each adapts."""

    @property
    def learnt(self) -> Mapping[str, Tensor]:
        """The weights that gradients go to, float32, by name."""

    def publish(self, llm: LLM, trainer: Executable) -> int:
        """Give the numbers to the engine and to the trainer's program; returns the version that they make."""

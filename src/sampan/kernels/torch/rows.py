"""A step's results: a few numbers of each row come to the host, its logits where somebody asks for them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sampan.kernels.graph import LOGITS
from sampan.kernels.tensors import Floats

SUMMED = 4096
"""Exponentials that are summed in float32; these sums are folded in float64, which some devices lack, on the
host."""


@dataclass
class TorchRows:
    """See `backend.Rows`. `outputs`: on the device, by name."""

    outputs: Mapping[str, Tensor]
    unsound: Mapping[int, str]
    chosen: tuple[float, ...] = ()

    @cached_property
    def logits(self) -> Floats:
        """[S, vocabulary]."""
        return self.kept(LOGITS)

    def logits_of(self, first: int, count: int) -> Floats:
        """[count, vocabulary]."""
        return self.logits[first : first + count]

    @cached_property
    def best(self) -> list[int]:
        """Of each row."""
        best: list[int] = self.outputs[LOGITS].argmax(-1).tolist()
        return best

    @property
    def log_totals(self) -> list[float]:
        """Of each row."""
        return [top + beside for top, beside in zip(*self._totals, strict=True)]

    @property
    def logprobs(self) -> list[float]:
        """Of the best tokens."""
        return [-beside for beside in self._totals[1]]

    def kept(self, name: str) -> Floats:
        """[S, width], or [T, width]."""
        values: Floats = self.outputs[name].float().cpu().numpy()
        return values

    @cached_property
    def _totals(self) -> tuple[list[float], list[float]]:
        """The largest logit, and the logarithm of the sum of exponentials beside it."""
        logits = self.outputs[LOGITS]
        top = logits.amax(-1, keepdim=True)
        parts = torch.split(logits, SUMMED, -1)
        sums = torch.stack([(part - top).exp().sum(-1) for part in parts], -1)
        return top[:, 0].tolist(), sums.cpu().double().sum(-1).log().tolist()


def unsound_rows(outputs: Mapping[str, Tensor], sampled: Iterable[str]) -> list[int]:
    """Sampled rows with a NaN or an infinity in one of these outputs."""
    wrong: set[int] = set()
    for name in sampled:
        ends = torch.stack((outputs[name].amin(-1), outputs[name].amax(-1)))
        wrong |= set((~torch.isfinite(ends).all(0)).nonzero()[:, 0].tolist())
    return sorted(wrong)

"""What the kernels' logits say of the tokens that follow, at a temperature, and how it changes with the
hidden states: the head's product is not computed a second time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd import Function

from sampan.engine.sampler import log_total_at
from sampan.kernels.backend import Rows
from sampan.kernels.tensors import Floats
from sampan.train.memory import HEAD_ROWS


@dataclass(frozen=True, eq=False)
class Judged:
    """Rows of logits [S, vocabulary], the logarithms of their exponentials' sums at the temperature [S], and
    the token that follows each."""

    logits: Floats
    log_totals: npt.NDArray[np.float64]
    targets: Sequence[int]
    temperature: float = 1.0

    @classmethod
    def of(cls, rows: Rows, targets: Sequence[int], temperature: float) -> "Judged":
        """Sampled rows without targets of their own. Valid until the next step."""
        logits = rows.logits_of(0, len(targets))
        totals = rows.log_totals if temperature == 1.0 else [log_total_at(row, temperature) for row in logits]
        return cls(logits, np.asarray(totals, np.float64), targets, temperature)

    @cached_property
    def logprobs(self) -> Tensor:
        """Of the targets, natural logarithms, float64: as the sampler has them, to the bit."""
        chosen = self.logits[np.arange(len(self.targets)), self.targets].astype(np.float64)
        return torch.from_numpy(chosen / self.temperature - self.log_totals)

    def slopes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """What each target's log-probability gains with its hidden state, [S, hidden] for a head `weight`
        [vocabulary, hidden]: (1 - p) of the target's row of it, less those of all others by their
        probabilities. And the entropy of each row's distribution in nats."""
        count, vocabulary = self.logits.shape
        targets = torch.tensor(self.targets)
        slopes = torch.empty(count, weight.shape[1])
        entropies = torch.empty(count, dtype=torch.float64)
        space = np.empty((min(HEAD_ROWS, count), vocabulary), np.float32)
        other = torch.empty(space.shape)
        for start in range(0, count, HEAD_ROWS):
            rows = slice(start, min(start + HEAD_ROWS, count))
            own = rows.stop - start
            np.divide(self.logits[rows], np.float32(self.temperature), out=space[:own])
            space[:own] -= self.log_totals[rows, None].astype(np.float32)
            logprobs = torch.from_numpy(space[:own])
            p = torch.exp(logprobs, out=other[:own])
            entropies[rows] = -logprobs.mul_(p).sum(-1)
            p[torch.arange(own), targets[rows]] = 0.0
            slopes[rows] = -(p.to(weight.dtype) @ weight).float()
        rest = -torch.expm1(self.logprobs).float()  # 1 - p, which float32 keeps where p is nearly 1
        slopes += rest[:, None] * weight[targets].float()
        return slopes.div_(self.temperature), entropies


class TargetLogprobs(Function):
    """Log-probabilities that are known already, as a function of the rows of hidden states and of W as the
    optimizer has it (`_master`, `None` where it stays); and entropies."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, judged: Judged, _master: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        slopes, entropies = judged.slopes(weight)
        learnt = (x, weight) if ctx.needs_input_grad[3] else (None, None)
        ctx.save_for_backward(slopes.to(x.dtype), *learnt)
        ctx.targets, ctx.temperature = judged.targets, judged.temperature
        ctx.mark_non_differentiable(entropies)
        return judged.logprobs.clone(), entropies

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _entropies: Tensor) -> Any:
        slopes, x, weight = ctx.saved_tensors
        gradient = gradient[:, None].to(slopes.dtype)
        if x is None:
            return gradient * slopes, None, None, None
        to_master = torch.zeros(weight.shape)
        targets = torch.tensor(ctx.targets)
        for start in range(0, len(x), HEAD_ROWS):
            rows = slice(start, start + HEAD_ROWS)
            logits = (x[rows].to(weight.dtype) @ weight.T).float()
            p = logits.div_(ctx.temperature).softmax(-1).neg_()
            p[torch.arange(len(p)), targets[rows]] += 1
            p *= gradient[rows] / ctx.temperature
            to_master.addmm_(p.T, x[rows])
        return gradient * slopes, None, None, to_master

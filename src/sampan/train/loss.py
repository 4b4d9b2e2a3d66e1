"""The loss of reinforcement learning on checkable answers: GRPO (arXiv:2402.03300) and what grew from it.

Pure: of log-probabilities and advantages. With a sampler that equals the trainer and one update of a
batch every ratio is 1; ratios and clips matter from the second update on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sampan.core.errors import UsageError


@dataclass(frozen=True)
class Loss:
    """`scale`: of advantages, r - mean of the group: divided by the group's standard deviation ("std",
    GRPO), or as it is ("none", Dr. GRPO, arXiv:2503.20783). `average`: over the tokens of each answer and
    then over answers ("sequence", GRPO), over all tokens ("token", DAPO, arXiv:2503.14476), or divided by
    `constant` tokens an answer ("constant", Dr. GRPO). `ratio`: of new to old probabilities, of each
    token or of the answer ("sequence": the geometric mean of its tokens', GSPO, arXiv:2507.18071).
    `bound`: what keeps an update near: "clip" takes the smaller of ratio * A and clip(ratio, 1 - low, 1 +
    high) * A (DAPO's clip-higher is high > low); "cispo" weights A * log p by the ratio, at most 1 + high
    (arXiv:2506.13585); "mask" leaves out tokens whose probability moved by more than `high` up where A >
    0, or `low` down where A < 0 (DPPO); "none" does nothing. `kl`: times the estimate k3 of the
    divergence from a reference (http://joschu.net/blog/kl-approx.html), 0 without one.

    `low` and `high` are 0.2 and 0.28 where a bound takes them.
    """

    scale: Literal["std", "none"] = "none"
    average: Literal["sequence", "token", "constant"] = "token"
    ratio: Literal["token", "sequence"] = "token"
    bound: Literal["clip", "cispo", "mask", "none"] = "none"
    low: float | None = None
    high: float | None = None
    constant: int | None = None
    kl: float = 0.0

    def __post_init__(self) -> None:
        """`UsageError` for options that do nothing or cancel each other, by name."""
        if (self.constant is not None) != (self.average == "constant"):
            raise UsageError('constant goes with average="constant", and that needs it')
        if self.ratio == "sequence" and self.bound in ("cispo", "mask"):
            raise UsageError(f'ratio="sequence" has no use in bound="{self.bound}", which looks at tokens')
        if self.ratio == "sequence" and self.average != "sequence":
            raise UsageError('ratio="sequence" is of whole answers: it needs average="sequence"')
        for name, used in (("low", self.bound in ("clip", "mask")), ("high", self.bound != "none")):
            value = getattr(self, name)
            if value is not None and not used:
                raise UsageError(f'{name} does nothing with bound="{self.bound}"')
            if value is not None and value < 0:
                raise UsageError(f"{name} is {value}: it is not negative")
        if self.kl < 0:
            raise UsageError(f"kl is {self.kl}: it is not negative")

    def check_on_policy(self) -> None:
        """`UsageError` for what does nothing where each batch is learnt from once."""
        if self.bound != "none" or self.ratio != "token":
            name, value = ("bound", self.bound) if self.bound != "none" else ("ratio", self.ratio)
            raise UsageError(
                f'loss.{name}="{value}" does nothing with updates=1: the trainer\'s probabilities are the '
                "sampler's, so that every ratio is 1"
            )

    @property
    def bounds(self) -> tuple[float, float]:
        """`low` and `high`."""
        return 0.2 if self.low is None else self.low, 0.28 if self.high is None else self.high


@dataclass(frozen=True)
class Figures:
    """What a loss was made of. `clipped_low`, `clipped_high`: shares of tokens whose gradient the bound
    took away, by the side; `ratio_least`, `ratio_mean`, `ratio_most`; `kl`: the estimate's mean."""

    loss: float
    clipped_low: float
    clipped_high: float
    ratio_least: float
    ratio_mean: float
    ratio_most: float
    kl: float

    @classmethod
    def none(cls) -> "Figures":
        """Where nothing was learnt from."""
        return cls(0, 0, 0, 1, 1, 1, 0)

    @classmethod
    def together(cls, found: Sequence[tuple[float, "Figures"]]) -> "Figures":
        """Of parts with their shares of the tokens."""
        every = [figures for _, figures in found]

        def mean(name: str) -> float:
            return sum(share * float(getattr(figures, name)) for share, figures in found)

        return cls(
            sum(figures.loss for figures in every), mean("clipped_low"), mean("clipped_high"),
            min(figures.ratio_least for figures in every), mean("ratio_mean"),
            max(figures.ratio_most for figures in every), mean("kl"),
        )  # fmt: skip


def advantages(rewards: Sequence[float], scale: Literal["std", "none"]) -> list[float]:
    """Of each answer of one group. All are 0 where all rewards are equal."""
    values = torch.tensor(rewards, dtype=torch.float64)
    centred = values - values.mean()
    if scale == "std" and len(rewards) > 1:
        centred = centred / (values.std() + 1e-4)
    return centred.tolist()


def of_tokens(values: Sequence[float], lengths: Sequence[int]) -> Tensor:
    """Each answer's value at every token of it [tokens]."""
    return torch.tensor(values, dtype=torch.float64).repeat_interleave(torch.tensor(lengths))


def policy_loss(
    new: Tensor,
    old: Tensor,
    gain: Tensor,
    lengths: Sequence[int],
    how: Loss,
    *,
    reference: Tensor | None = None,
    answers: int | None = None,
    tokens: int | None = None,
) -> tuple[Tensor, Figures]:
    """The loss of some answers. `new`, `old`, `reference`: log-probabilities of their tokens, one answer
    after another [tokens]; `gain`: the advantage of each token [tokens]; `lengths`: of each answer.
    `answers`, `tokens`: of the whole batch, of which these may be a part: the parts' losses add up to the
    whole's."""
    of_token = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    moved = new - old
    if how.ratio == "sequence":
        moved = _mean_of_each(moved, of_token, lengths)[of_token]
    ratio = moved.exp()
    value, low, high = _bounded(new, old, ratio, gain, how)
    divergence = torch.zeros_like(new)
    if reference is not None and how.kl:
        away = reference - new
        divergence = away.exp() - away - 1
        value = value - how.kl * divergence
    weight = _weights(of_token, lengths, how, answers or len(lengths), tokens or len(new))
    loss = -(value * weight).sum()
    seen = ratio.detach()
    figures = Figures(
        float(loss.detach()), float(low.float().mean()), float(high.float().mean()),
        float(seen.min()), float(seen.mean()), float(seen.max()), float(divergence.detach().mean()),
    )  # fmt: skip
    return loss, figures


def _bounded(
    new: Tensor, old: Tensor, ratio: Tensor, gain: Tensor, how: Loss
) -> tuple[Tensor, Tensor, Tensor]:
    """What each token adds to the objective, and which tokens are bounded below and above."""
    below, above = how.bounds
    low, high = (gain < 0) & (ratio < 1 - below), (gain > 0) & (ratio > 1 + above)
    match how.bound:
        case "clip":
            return torch.minimum(ratio * gain, ratio.clamp(1 - below, 1 + above) * gain), low, high
        case "cispo":
            return ratio.detach().clamp(max=1 + above) * gain * new, torch.zeros_like(low), high
        case "mask":
            probability = new.detach().exp() - old.exp()
            low, high = (gain < 0) & (probability < -below), (gain > 0) & (probability > above)
            return torch.where(low | high, 0.0, ratio * gain), low, high
        case "none":
            return ratio * gain, torch.zeros_like(low), torch.zeros_like(high)


def _weights(of_token: Tensor, lengths: Sequence[int], how: Loss, answers: int, tokens: int) -> Tensor:
    """What a token's value counts in the loss."""
    match how.average:
        case "sequence":
            return 1 / (answers * torch.tensor(lengths, dtype=torch.float64)[of_token])
        case "token":
            return torch.full((len(of_token),), 1 / tokens, dtype=torch.float64)
        case "constant":
            return torch.full((len(of_token),), 1 / (answers * (how.constant or 1)), dtype=torch.float64)


def _mean_of_each(values: Tensor, of_token: Tensor, lengths: Sequence[int]) -> Tensor:
    sums = values.new_zeros(len(lengths)).index_add(0, of_token, values)
    return sums / torch.tensor(lengths, dtype=values.dtype)

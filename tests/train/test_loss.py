"""The loss of reinforcement learning: values worked out by hand from the papers' formulas, and options
that are refused."""

from math import exp, log

import pytest
import torch

from sampan.core.errors import UsageError
from sampan.train.loss import Loss, advantages, of_tokens, policy_loss

# Two answers, of two tokens and of one. Ratios: 1.5, 0.5; 2.
OLD = torch.tensor([log(0.4), log(0.4), log(0.2)], dtype=torch.float64)
NEW = torch.tensor([log(0.6), log(0.2), log(0.4)], dtype=torch.float64)
LENGTHS = [2, 1]
GAIN = of_tokens([1.0, -2.0], LENGTHS)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        # min(1.5, 1.28) + min(0.5, 0.8), and of the loser max(2, 1.28) * 2 to the bad: three tokens.
        (Loss(bound="clip"), -(1.28 + 0.5 - 4.0) / 3),
        (Loss(bound="clip", average="sequence", high=0.2), -((1.2 + 0.5) / 2 - 4.0) / 2),
        (Loss(bound="clip", average="constant", constant=10), -(1.28 + 0.5 - 4.0) / 20),
        (Loss(), -(1.5 + 0.5 - 4.0) / 3),
        (Loss(bound="cispo", high=0.5), -(1.5 * log(0.6) + 0.5 * log(0.2) - 2 * 1.5 * log(0.4)) / 3),
        # +0.2 where A > 0 stays, and +0.2 where A < 0 is no move down.
        (Loss(bound="mask", low=0.2, high=0.3), -(1.5 + 0.5 - 4.0) / 3),
        (Loss(bound="mask", low=0.2, high=0.1), -(0.0 + 0.5 - 4.0) / 3),
        # sqrt(1.5 * 0.5) of the first answer, 2 of the second.
        (Loss(ratio="sequence", average="sequence"), -(0.75**0.5 - 4.0) / 2),
    ],
)
def test_values(how: Loss, expected: float) -> None:
    loss, _ = policy_loss(NEW, OLD, GAIN, LENGTHS, how)
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_parts_add_up_to_the_whole() -> None:
    how = Loss(bound="clip")
    whole, _ = policy_loss(NEW, OLD, GAIN, LENGTHS, how)
    first, _ = policy_loss(NEW[:2], OLD[:2], GAIN[:2], [2], how, answers=2, tokens=3)
    second, _ = policy_loss(NEW[2:], OLD[2:], GAIN[2:], [1], how, answers=2, tokens=3)
    assert float(first + second) == pytest.approx(float(whole), rel=1e-12)


def test_before_an_update_the_gradient_is_that_of_reinforce() -> None:
    new = OLD.clone().requires_grad_()
    for how in (Loss(), Loss(bound="clip"), Loss(bound="cispo"), Loss(bound="mask")):
        loss, figures = policy_loss(new, OLD, GAIN, LENGTHS, how)
        (gradient,) = torch.autograd.grad(loss, new)
        assert gradient.tolist() == pytest.approx([-1 / 3, -1 / 3, 2 / 3], rel=1e-12)
        assert (figures.ratio_least, figures.ratio_most) == (1.0, 1.0)
        assert (figures.clipped_low, figures.clipped_high) == (0.0, 0.0)


def test_the_divergence_from_a_reference_counts() -> None:
    reference = torch.tensor([log(0.3), log(0.2), log(0.4)], dtype=torch.float64)
    loss, figures = policy_loss(NEW, OLD, GAIN, LENGTHS, Loss(bound="clip", kl=0.5), reference=reference)
    k3 = exp(log(0.3) - log(0.6)) - (log(0.3) - log(0.6)) - 1
    plain, _ = policy_loss(NEW, OLD, GAIN, LENGTHS, Loss(bound="clip"))
    assert float(loss) == pytest.approx(float(plain) + 0.5 * k3 / 3, rel=1e-12)
    assert figures.kl == pytest.approx(k3 / 3)


def test_shares_of_bounded_tokens_are_told() -> None:
    _, figures = policy_loss(NEW, OLD, GAIN, LENGTHS, Loss(bound="clip"))
    assert figures.clipped_high == pytest.approx(1 / 3)
    assert figures.clipped_low == 0.0


def test_advantages() -> None:
    assert advantages([1.0, 0.0, 0.0, 1.0], "none") == [0.5, -0.5, -0.5, 0.5]
    assert advantages([1.0, 1.0], "std") == [0.0, 0.0]
    # TRL's: the sample's deviation, and 1e-4.
    assert advantages([1.0, 0.0], "std") == pytest.approx([0.5 / (0.5**0.5 + 1e-4), -0.5 / (0.5**0.5 + 1e-4)])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"average": "constant"}, "constant goes with"),
        ({"constant": 5}, "constant goes with"),
        ({"ratio": "sequence"}, 'needs average="sequence"'),
        ({"ratio": "sequence", "average": "sequence", "bound": "cispo"}, "looks at tokens"),
        ({"bound": "clip", "low": -0.1}, "not negative"),
        ({"low": 0.1}, 'low does nothing with bound="none"'),
        ({"bound": "cispo", "low": 0.1}, 'low does nothing with bound="cispo"'),
        ({"kl": -1.0}, "kl is -1.0"),
    ],
)
def test_options_that_do_nothing_or_cancel_each_other_are_refused(
    fields: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        Loss(**fields)  # type: ignore[arg-type]


def test_bounds_do_nothing_where_every_ratio_is_1() -> None:
    Loss().check_on_policy()
    for how in (Loss(bound="clip"), Loss(ratio="sequence", average="sequence")):
        with pytest.raises(UsageError, match="does nothing with updates=1"):
            how.check_on_policy()

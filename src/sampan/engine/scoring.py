"""What rows of logits say of the tokens that follow them.

Log-probabilities are in float64, of float32 logits and the sum of their exponentials that the kernels give.
At a temperature they are those of the distribution that the sampler draws from: softmax(logits /
temperature)."""

import numpy as np
import numpy.typing as npt

from sampan.core.types import Scoring, TokenScore
from sampan.engine.candidates import Floats
from sampan.engine.sampler import log_total_at, top_at, top_logprobs
from sampan.engine.sequence import Span
from sampan.kernels.backend import Rows

Doubles = npt.NDArray[np.float64]


def score_rows(rows: Rows, first: int, span: Span) -> list[TokenScore]:
    """Scores by the span's rows, of which the step's sampled row `first` is the first that scores."""
    how, targets = span.sequence.scoring, span.targets
    assert how is not None
    if how.plain and rows.chosen:
        place = slice(first, first + span.scored)
        told = zip(targets, rows.chosen[place], rows.log_totals[place], strict=True)
        return [TokenScore(token, logit - total) for token, logit, total in told]
    logits = rows.logits_of(first, span.scored)
    chosen = logits[np.arange(len(targets)), targets]
    if how.temperature == 1.0:
        totals = np.array(rows.log_totals[first : first + span.scored])
        logprobs = chosen.astype(np.float64) - totals
    else:
        totals = np.array([log_total_at(row, how.temperature) for row in logits])
        logprobs = chosen.astype(np.float64) / how.temperature - totals
    if how.plain:
        return [TokenScore(token, value) for token, value in zip(targets, logprobs.tolist(), strict=True)]
    return [
        _detailed(row, token, value, total, how)
        for row, token, value, total in zip(logits, targets, logprobs.tolist(), totals.tolist(), strict=True)
    ]


def _detailed(row: Floats, token: int, logprob: float, total: float, how: Scoring) -> TokenScore:
    rank = 1 + int(np.count_nonzero(row > row[token])) if how.ranks else None
    entropy = None
    if how.entropy:
        x = row.astype(np.float64) / how.temperature - total
        entropy = float(-(np.exp(x) * x).sum())
    others = tuple(float(row[other]) / how.temperature - total for other in how.others)
    if how.temperature == 1.0:
        return TokenScore(token, logprob, rank, entropy, top_logprobs(row, total, how.top), others)
    top = top_at(row, how.temperature, total, how.top)
    return TokenScore(token, logprob, rank, entropy, top, others)

"""Chooses tokens. A choice depends on the row's logits, the request and its seed, and on nothing else.

The order of filters is penalties and bias, temperature, top-k, top-p, min-p. Randomness is counter-based
(Philox, keyed by the seed, counted by the position), so a request's text does not depend on what ran
beside it. Log-probabilities are those of the model, before any of this.
"""

from collections import Counter

import numpy as np
import numpy.typing as npt

from sampan.core.types import SamplingParams, TokenLogprob
from sampan.engine.sequence import Sequence

Floats = npt.NDArray[np.float32]

_CANDIDATES = 512  # first guess at how many tokens top-p needs


def is_greedy(p: SamplingParams) -> bool:
    """The most probable token, whatever the seed."""
    return p.temperature == 0 or p.top_k == 1


def changes_logits(p: SamplingParams) -> bool:
    """Penalties or bias move logits before the choice."""
    return (
        p.repetition_penalty != 1.0
        or p.presence_penalty != 0.0
        or p.frequency_penalty != 0.0
        or bool(p.logit_bias)
    )


def choose(logits: Floats, best: int, log_total: float, sequence: Sequence) -> TokenLogprob:
    """One row's next token: `logits` [vocabulary], their argmax, and the log of their exponentials' sum."""
    p = sequence.sampling
    changed = penalised(logits, sequence) if changes_logits(p) else logits
    if is_greedy(p):
        token = int(np.argmax(changed)) if changed is not logits else best
    else:
        token = _draw(changed, p, sequence.seed, len(sequence.tokens))
    return TokenLogprob(
        token, float(logits[token]) - log_total, top_logprobs(logits, log_total, p.logprobs or 0)
    )


def top_logprobs(logits: Floats, log_total: float, count: int) -> tuple[tuple[int, float], ...]:
    """The `count` most probable tokens with their log-probabilities, best first."""
    if count == 0:
        return ()
    index = _largest(logits, min(count, logits.size))
    return tuple((int(i), float(logits[i]) - log_total) for i in index)


def penalised(logits: Floats, sequence: Sequence) -> Floats:
    """Logits after the penalties and the bias (OpenAI's presence and frequency count the output alone,
    the repetition penalty counts the prompt too, as in CTRL)."""
    p = sequence.sampling
    out = logits.copy()
    if p.repetition_penalty != 1.0:
        seen = np.unique(sequence.tokens)
        values = out[seen]
        out[seen] = np.where(values > 0, values / p.repetition_penalty, values * p.repetition_penalty)
    if p.presence_penalty or p.frequency_penalty:
        counts = Counter(sequence.output)
        for token, count in counts.items():
            out[token] -= p.presence_penalty + p.frequency_penalty * count
    for token, bias in p.logit_bias.items():
        out[token] += bias
    return out


def _draw(logits: Floats, p: SamplingParams, seed: int, position: int) -> int:
    with np.errstate(over="ignore"):  # near temperature zero all but the best become minus infinity
        scaled = (logits.astype(np.float64) - logits.max()) / p.temperature
    index, weights = _candidates(scaled, p)
    totals = np.cumsum(weights)
    uniform = np.random.Generator(np.random.Philox(key=seed, counter=position)).random()
    chosen = int(np.searchsorted(totals, uniform * totals[-1], side="right"))
    chosen = min(chosen, weights.size - 1)
    return chosen if index is None else int(index[chosen])


def _candidates(
    scaled: npt.NDArray[np.float64], p: SamplingParams
) -> tuple[npt.NDArray[np.intp] | None, npt.NDArray[np.float64]]:
    """Candidate tokens (None: all, in order) and their probabilities in parts of the best one's."""
    weights = np.exp(scaled)
    if p.top_k == 0 and p.top_p >= 1.0:
        if p.min_p > 0:
            weights[weights < p.min_p] = 0.0
        return None, weights
    total = weights.sum()
    size = p.top_k or _CANDIDATES
    index = _largest(weights, min(size, weights.size))
    if p.top_k == 0 and weights[index].sum() < p.top_p * total:
        index = _largest(weights, weights.size)
    kept = weights[index]
    if p.top_p < 1.0:
        mass = kept.sum() if p.top_k else total
        before = np.cumsum(kept) - kept
        index = index[before < p.top_p * mass] if p.top_p > 0 else index[:1]
        kept = weights[index]
    keep = kept >= p.min_p
    return index[keep], kept[keep]


def _largest(values: npt.NDArray[np.floating], count: int) -> npt.NDArray[np.intp]:
    """Indices of the largest values, best first; ties go to the lower index."""
    if count < values.size:
        threshold = np.partition(values, values.size - count)[values.size - count]
        index = np.flatnonzero(values >= threshold)
    else:
        index = np.arange(values.size)
    return index[np.argsort(-values[index], kind="stable")][:count]

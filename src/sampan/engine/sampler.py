"""Chooses tokens. A choice depends on the row's logits, the request and its seed, and on nothing else.

The order of filters is penalties and bias, the constraint, temperature, top-k, top-p, min-p. Randomness is
counter-based (BLAKE2b, keyed by the seed, of the position), so a request's text does not depend on what ran
beside it. Log-probabilities are those of the model, before any of this, or at the temperature alone where a
request asks for that: a token that a constraint forced may have a low one, and the alternatives beside it may
be forbidden.
"""

from collections import Counter
from hashlib import blake2b
from math import log

import numpy as np
import numpy.typing as npt

from sampan.core.errors import RequestError
from sampan.core.types import SamplingParams, TokenLogprob
from sampan.engine.candidates import Floats, Indices, at_least, draw, largest
from sampan.engine.constraint import allows
from sampan.engine.sequence import Sequence

Doubles = npt.NDArray[np.float64]

_COLDEST = 1e-30  # colder than this, nothing but the best has a weight that float32 can hold
_NUCLEUS = 512  # tokens that usually hold all but 1 - top_p
_ATTEMPTS = 4  # draws from all tokens before the nucleus is sorted
_SLACK = 0.999  # a bound in float32 must not lose what passes in float64


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
        or forbids(p)
    )


def forbids(p: SamplingParams) -> bool:
    """Some tokens may not be chosen in some places, or must be."""
    forced = p.forced_bos_token_id is not None or p.forced_eos_token_ids
    return bool(forced or p.min_tokens > 0 or p.suppress_tokens or p.begin_suppress_tokens or p.bad_words_ids)


def takes_best(p: SamplingParams) -> bool:
    """The most probable token as the model sees it, and nothing else is asked for: `choose` is not needed."""
    return is_greedy(p) and not changes_logits(p) and not p.logprobs and not p.tempered


def choose(
    logits: Floats,
    best: int,
    log_total: float,
    sequence: Sequence,
    after: tuple[int, ...] = (),
    allowed: bytes | None = None,
) -> TokenLogprob:
    """One row's next token: `logits` [vocabulary], their argmax, and the log of their exponentials' sum.

    `after`: tokens that follow the sequence's own and come before the one to choose. `allowed`: see
    `Constraint`; RequestError where that is nothing.
    """
    p = sequence.sampling
    changed = moved = penalised(logits, sequence, after) if changes_logits(p) else logits
    if forbids(p):
        needed = forced(sequence, len(after))
        changed = only(moved, needed) if needed else without(moved, forbidden(sequence, after))
    if allowed is not None and not (is_greedy(p) and changed is logits and allows(allowed, best)):
        changed = masked(changed, allowed)
        if forbids(p) and changed.max() == -np.inf:
            changed = masked(moved, allowed)
    if is_greedy(p):
        token = int(np.argmax(changed)) if changed is not logits else best
    else:
        token = _draw(changed, p, _Chance(sequence.seed, len(sequence.tokens) + len(after)))
    count, temperature = p.logprobs or 0, p.temperature
    if not p.tempered or temperature == 1.0:
        return TokenLogprob(token, float(logits[token]) - log_total, top_logprobs(logits, log_total, count))
    total = log_total_at(logits, temperature)
    return TokenLogprob(
        token, float(logits[token]) / temperature - total, top_at(logits, temperature, total, count)
    )


def top_logprobs(logits: Floats, log_total: float, count: int) -> tuple[tuple[int, float], ...]:
    """The `count` most probable tokens with their log-probabilities, best first."""
    if count == 0:
        return ()
    index = largest(logits, min(count, logits.size))
    return tuple((int(i), float(logits[i]) - log_total) for i in index)


def top_at(logits: Floats, temperature: float, log_total: float, count: int) -> tuple[tuple[int, float], ...]:
    """The same at a temperature, of which `log_total` is."""
    return tuple(
        (other, value / temperature - log_total) for other, value in top_logprobs(logits, 0.0, count)
    )


def log_total_at(logits: Floats, temperature: float) -> float:
    """The logarithm of the sum of exp(logit / temperature), which probabilities at a temperature are relative
    to."""
    x = logits.astype(np.float64) / temperature
    most = x.max()
    return float(np.log(np.exp(x - most).sum()) + most)


def penalised(logits: Floats, sequence: Sequence, after: tuple[int, ...] = ()) -> Floats:
    """Logits after the penalties and the bias (OpenAI's presence and frequency count the output alone,
    the repetition penalty counts the prompt too, as in CTRL)."""
    p = sequence.sampling
    out = logits.copy()
    if p.repetition_penalty != 1.0:
        seen = np.fromiter({*sequence.tokens, *after}, np.intp)
        values = out[seen]
        out[seen] = np.where(values > 0, values / p.repetition_penalty, values * p.repetition_penalty)
    if p.presence_penalty or p.frequency_penalty:
        counts = Counter([*sequence.output, *after])
        for token, count in counts.items():
            out[token] -= p.presence_penalty + p.frequency_penalty * count
    for token, bias in p.logit_bias.items():
        out[token] += bias
    return out


def forbidden(sequence: Sequence, after: tuple[int, ...] = ()) -> set[int]:
    """The tokens that may not follow, as transformers' processors of the same names have it: bad words count
    the prompt."""
    p, tokens = sequence.sampling, [*sequence.tokens, *after]
    sampled = len(tokens) - sequence.prompt_tokens
    first = 1 if p.forced_bos_token_id is not None and sequence.prompt_tokens == 1 else 0
    found = {*p.suppress_tokens, *(p.begin_suppress_tokens if sampled == first else ())}
    if sampled < p.min_tokens:
        found |= sequence.stop_ids
    for *beginning, last in p.bad_words_ids:
        if tokens[len(tokens) - len(beginning) :] == beginning:
            found.add(last)
    return found


def forced(sequence: Sequence, after: int = 0) -> list[int]:
    """The tokens one of which must follow so many behind the sequence's own, none for any: as transformers'
    processors have it."""
    p, place = sequence.sampling, len(sequence.tokens) + after
    if p.forced_eos_token_ids and place == sequence.limit - 1:
        return list(p.forced_eos_token_ids)
    return [p.forced_bos_token_id] if p.forced_bos_token_id is not None and place == 1 else []


def only(logits: Floats, tokens: list[int]) -> Floats:
    """Logits of some tokens, which are all the same, and minus infinity."""
    out = np.full_like(logits, -np.inf)
    out[tokens] = 0.0
    return out


def without(logits: Floats, tokens: set[int]) -> Floats:
    """Logits with those of some tokens at minus infinity."""
    out = logits.copy()
    out[list(tokens)] = -np.inf
    return out


def masked(logits: Floats, allowed: bytes) -> Floats:
    """Logits with those of forbidden tokens at minus infinity."""
    bits = np.unpackbits(np.frombuffer(allowed, np.uint8), count=logits.size, bitorder="little")
    if not bits.any():
        raise RequestError("the grammar allows no token here")
    return np.where(bits.view(np.bool_), logits, np.float32(-np.inf))


class _Chance:
    """Numbers in [0, 1) of one seed and position, one after another."""

    def __init__(self, seed: int, position: int) -> None:
        self.key = seed.to_bytes(8, "little")
        self.place = position << 8

    def next(self) -> float:
        digest = blake2b(self.place.to_bytes(8, "little"), digest_size=8, key=self.key).digest()
        self.place += 1
        return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def _draw(logits: Floats, p: SamplingParams, chance: _Chance) -> int:
    temperature = max(p.temperature, _COLDEST)
    total = None
    if p.top_k > 0:
        index = largest(logits, min(p.top_k, logits.size))
    elif p.min_p > 0:
        index = at_least(logits, float(logits.max()) + temperature * log(p.min_p * _SLACK))
        total = float(_weights(logits, temperature).sum()) if p.top_p < 1 else None
    elif p.top_p < 1:
        return _draw_nucleus(_weights(logits, temperature), p.top_p, chance)
    else:
        return draw(_weights(logits, temperature), chance.next())
    values = logits[index].astype(np.float64)
    return _pick(index, np.exp((values - values[0]) / temperature), p.top_p, p.min_p, total, chance.next())


def _draw_nucleus(weights: Floats, top_p: float, chance: _Chance) -> int:
    """Top-p alone. A draw from all tokens that falls into the nucleus is a draw from the nucleus, and most
    do: what is heavier than one token is summed faster than thousands are sorted."""
    total = float(weights.sum())
    for _ in range(_ATTEMPTS):
        token = draw(weights, chance.next())
        weight = weights[token]
        ties = np.count_nonzero(weights[:token] == weight)
        if (weights * (weights > weight)).sum() + ties * weight < top_p * total:
            return token
    # All tokens lighter than rest / size weigh no more than the rest; far fewer than all usually do.
    rest = (1 - top_p) * total
    for bound in (rest / _NUCLEUS, rest / weights.size):
        index = at_least(weights, min(bound, 1.0) * _SLACK)
        if weights[index].sum() >= top_p * total:
            break
    return _pick(index, weights[index].astype(np.float64), top_p, 0.0, total, chance.next())


def _pick(
    index: Indices, weights: Doubles, top_p: float, min_p: float, total: float | None, uniform: float
) -> int:
    """One of the tokens `index`, best first, that pass the filters. Top-p counts in parts of `total`, the
    weight of all tokens, or of these alone."""
    ends = np.cumsum(weights)
    if top_p < 1:
        mass = ends[-1] if total is None else total
        ends = ends[: max(1, np.count_nonzero(ends - weights < top_p * mass))]
    ends = ends[: np.count_nonzero(weights[: ends.size] >= min_p)]
    chosen = int(np.searchsorted(ends, uniform * ends[-1], side="right"))
    return int(index[min(chosen, ends.size - 1)])


def _weights(logits: Floats, temperature: float) -> Floats:
    """Probabilities at a temperature, in parts of the best one's."""
    scaled: Floats = logits - logits.max()
    scaled /= np.float32(temperature)
    np.exp(scaled, out=scaled)
    return scaled

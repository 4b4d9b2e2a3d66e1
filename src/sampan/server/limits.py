"""Rates and quotas of a key: who may ask now, and when to come back.

Contract: rates are token buckets that hold one minute's worth and refill on a monotonic clock, so that
nothing happens to them when the wall clock is set. A request takes its prompt and the most it may answer when
it is admitted, and gives back what it did not use when it is settled. Only the day, which quotas need, comes
from the wall clock; it ends at midnight UTC. For one thread.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from sampan.server.errors import ApiError
from sampan.server.storage.keys import Clock, Key

_MINUTE = 60.0
_DAY = 86_400
_ROUNDING = 1e-6  # who waits exactly as long as told is let in


class Spending(Protocol):
    """What knows the tokens of the day: the ledger."""

    def spent_today(self, key: str) -> int:
        """Tokens of a key since midnight UTC."""
        ...


@dataclass
class Reservation:
    """What an admitted request holds; hand it to `Limits.settle` when it has ended, however it ended."""

    key: Key | None
    rate_tokens: float = 0.0
    day_tokens: int = 0
    settled: bool = False


@dataclass
class _Bucket:
    """`used` of `capacity`; it drains at `capacity` a minute. Below 0 never, above while there is debt."""

    used: float = 0.0
    time: float = 0.0

    def drain(self, capacity: int, now: float) -> None:
        self.used = max(0.0, self.used - (now - self.time) * capacity / _MINUTE)
        self.time = now

    def wait(self, amount: float, capacity: int) -> float:
        """Seconds until `amount` fits; 0 when it does."""
        missing = self.used + amount - capacity
        return missing * _MINUTE / capacity if missing > _ROUNDING else 0.0


@dataclass
class _State:
    requests: _Bucket
    tokens: _Bucket
    in_flight: int = 0  # of the day's quota


@dataclass
class Limits:
    """The limits of every key that has asked, by id; a key's limits may change between two requests."""

    spending: Spending
    clock: Clock = time.monotonic
    now: Callable[[], float] = time.time
    _states: dict[str, _State] = field(default_factory=dict)

    def admit(
        self, key: Key | None, prompt_tokens: int, max_tokens: int, requests: float = 1.0
    ) -> Reservation:
        """Take a request's share, or raise `ApiError` 429 that says which limit and when to come back.

        `requests`: as how many it counts. None stands for a service without keys: nothing is limited.
        Nothing is taken from a request that is refused.
        """
        if key is None:
            return Reservation(None)
        state = self._state(key)
        wanted = prompt_tokens + max_tokens
        rate_tokens = self._check_rates(key, state, prompt_tokens, wanted, requests)
        self._check_day(key, state, wanted)
        if key.requests_per_minute:
            state.requests.used += requests
        state.tokens.used += rate_tokens
        state.in_flight += wanted
        return Reservation(key, rate_tokens, wanted)

    def settle(self, reservation: Reservation, used_tokens: int) -> None:
        """Replace a reservation by what was used (prompt and answer). A second time does nothing.

        What was used goes to the ledger as well, before the key's next request.
        """
        if reservation.key is None or reservation.settled:
            return
        reservation.settled = True
        state = self._state(reservation.key)
        state.in_flight -= reservation.day_tokens
        if reservation.key.tokens_per_minute:
            state.tokens.used = max(0.0, state.tokens.used + used_tokens - reservation.rate_tokens)

    def headers(self, key: Key | None) -> dict[str, str]:
        """`x-ratelimit-*` as OpenAI names them, for the rates that the key has."""
        if key is None:
            return {}
        state = self._state(key)
        return _headers("requests", state.requests, key.requests_per_minute) | _headers(
            "tokens", state.tokens, key.tokens_per_minute
        )

    def _state(self, key: Key) -> _State:
        now = self.clock()
        state = self._states.get(key.id)
        if state is None:
            state = self._states[key.id] = _State(_Bucket(time=now), _Bucket(time=now))
        state.requests.drain(key.requests_per_minute or 0, now)
        state.tokens.drain(key.tokens_per_minute or 0, now)
        return state

    def _check_rates(self, key: Key, state: _State, prompt_tokens: int, wanted: int, count: float) -> float:
        """Refuse by the rate that takes longest to recover; else the tokens to take."""
        requests, tokens = key.requests_per_minute, key.tokens_per_minute
        if tokens and prompt_tokens > tokens:
            raise _too_large(f"the prompt has {prompt_tokens} tokens, this key may use {tokens} a minute")
        # Never more than the bucket holds: the answer may well be shorter, and debt is paid afterwards.
        taken = float(min(wanted, tokens)) if tokens else 0.0
        for_requests = state.requests.wait(count, requests) if requests else 0.0
        for_tokens = state.tokens.wait(taken, tokens) if tokens else 0.0
        if for_requests and for_requests >= for_tokens:
            raise _limited("requests", f"{requests} requests a minute", for_requests)
        if for_tokens:
            raise _limited("tokens", f"{tokens} tokens a minute; this request may take {wanted}", for_tokens)
        return taken

    def _check_day(self, key: Key, state: _State, wanted: int) -> None:
        quota = key.tokens_per_day
        if not quota:
            return
        left = quota - self.spending.spent_today(key.id) - state.in_flight
        if wanted > left:
            raise ApiError(
                429,
                f"This key may use {quota} tokens a day: {max(0, left)} are neither used nor held by its "
                f"requests, this one may take {wanted}. Lower max_tokens, or come back after midnight UTC.",
                kind="insufficient_quota",
                code="insufficient_quota",
                retry_after=_DAY - self.now() % _DAY,
            )


def _limited(kind: str, limit: str, wait: float) -> ApiError:
    return ApiError(
        429,
        f"This key may use {limit}. Come back in {_duration(wait)}.",
        kind=kind,
        code="rate_limit_exceeded",
        retry_after=wait,
    )


def _too_large(message: str) -> ApiError:
    return ApiError(
        429, f"{message}; shorten it, for waiting does not help.", kind="tokens", code="rate_limit_exceeded"
    )


def _headers(kind: str, bucket: _Bucket, limit: int | None) -> dict[str, str]:
    if not limit:
        return {}
    return {
        f"x-ratelimit-limit-{kind}": str(limit),
        f"x-ratelimit-remaining-{kind}": str(max(0, math.floor(limit - bucket.used))),
        f"x-ratelimit-reset-{kind}": _duration(bucket.used * _MINUTE / limit),
    }


def _duration(seconds: float) -> str:
    """As OpenAI writes it: 20ms, 1.5s, 6m0s. Rounded up, for who comes back then is let in."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes}m{rest / 1000:g}s" if minutes else f"{rest / 1000:g}s"

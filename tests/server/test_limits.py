"""Rates and quotas: what is let through, what is refused with which words, and when to come back."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.server.errors import ApiError
from sampan.server.limits import Limits
from sampan.server.storage.keys import Key

NOON = 20_000 * 86_400 + 43_200.0


@dataclass
class World:
    """Two clocks, and what the ledger knows."""

    monotonic: float = 1000.0
    wall: float = NOON
    spent: dict[str, int] = field(default_factory=dict)

    def spent_today(self, key: str) -> int:
        return self.spent.get(key, 0)

    def limits(self) -> Limits:
        return Limits(self, clock=lambda: self.monotonic, now=lambda: self.wall)


def key(requests: int | None = None, tokens: int | None = None, day: int | None = None, id: str = "a") -> Key:
    return Key(id, id, requests_per_minute=requests, tokens_per_minute=tokens, tokens_per_day=day)


def refused(limits: Limits, who: Key, prompt: int = 1, answer: int = 1) -> ApiError:
    with pytest.raises(ApiError) as caught:
        limits.admit(who, prompt, answer)
    assert caught.value.status == 429
    return caught.value


def test_without_limits_everything_is_admitted() -> None:
    limits = World().limits()
    for who in (None, key()):
        for _ in range(1000):
            limits.admit(who, 10**6, 10**6)
        assert limits.headers(who) == {}


def test_requests_a_minute() -> None:
    world = World()
    limits, who = world.limits(), key(requests=6)
    for _ in range(6):
        limits.admit(who, 1, 1)
    error = refused(limits, who)
    assert (error.kind, error.code, error.retry_after) == ("requests", "rate_limit_exceeded", 10)
    assert error.message == "This key may use 6 requests a minute. Come back in 10s."
    limits.admit(key(requests=6, id="b"), 1, 1)  # another key is not held up
    world.monotonic += 9.9
    assert refused(limits, who).retry_after == pytest.approx(0.1)
    world.monotonic += 0.1
    limits.admit(who, 1, 1)
    refused(limits, who)


def test_tokens_a_minute_are_reserved_and_given_back() -> None:
    world = World()
    limits, who = world.limits(), key(tokens=600)
    held = limits.admit(who, 100, 400)
    error = refused(limits, who, 100, 100)
    assert (error.kind, error.retry_after) == ("tokens", 10)
    assert "600 tokens a minute; this request may take 200" in error.message
    limits.settle(held, 150)
    limits.settle(held, 0)  # a second time does nothing
    limits.admit(who, 100, 350)
    refused(limits, who)


def test_an_answer_of_unknown_length_is_admitted_and_paid_for_afterwards() -> None:
    world = World()
    limits, who = world.limits(), key(tokens=600)
    held = limits.admit(who, 10, 8000)
    limits.settle(held, 1200)
    assert refused(limits, who, 10, 8000).retry_after == 120
    world.monotonic += 120
    limits.admit(who, 10, 8000)


def test_a_prompt_over_the_rate_is_told_that_waiting_is_no_use() -> None:
    error = refused(World().limits(), key(tokens=600), 601, 1)
    assert error.retry_after is None
    assert "the prompt has 601 tokens, this key may use 600 a minute" in error.message


def test_tokens_a_day() -> None:
    world = World()
    limits, who = world.limits(), key(day=1000)
    world.spent["a"] = 500
    held = limits.admit(who, 100, 200)
    error = refused(limits, who, 100, 200)
    assert (error.kind, error.code, error.retry_after) == ("insufficient_quota", "insufficient_quota", 43_200)
    assert "1000 tokens a day: 200 are neither used nor held" in error.message
    limits.settle(held, 110)
    world.spent["a"] = 610
    limits.admit(who, 100, 290)
    refused(limits, who)


def test_what_is_refused_costs_nothing() -> None:
    world = World()
    limits, who = world.limits(), key(requests=2, tokens=600, day=10_000)
    limits.admit(who, 100, 400)
    before = limits.headers(who)
    for _ in range(100):
        refused(limits, who, 100, 100)
    world.spent["a"] = 10_000
    refused(limits, who, 1, 1)
    assert limits.headers(who) == before


@pytest.mark.parametrize("jump", [-10 * 365 * 86_400.0, 3600.0, 10 * 365 * 86_400.0])
def test_setting_the_wall_clock_changes_no_rate(jump: float) -> None:
    world = World()
    limits, who = world.limits(), key(requests=1, tokens=600)
    limits.admit(who, 1, 1)
    before = limits.headers(who)
    world.wall += jump
    assert limits.headers(who) == before
    assert refused(limits, who).retry_after == 60


def test_headers_are_openais() -> None:
    world = World()
    limits, who = world.limits(), key(requests=60, tokens=600)
    assert limits.headers(who)["x-ratelimit-reset-requests"] == "0ms"
    limits.admit(who, 100, 475)
    limits.admit(who, 0, 5)
    world.monotonic += 0.5
    assert limits.headers(who) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "58",
        "x-ratelimit-reset-requests": "1.5s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "25",
        "x-ratelimit-reset-tokens": "57.5s",
    }
    limits.settle(limits.admit(who, 1, 1), 1501)
    assert limits.headers(who)["x-ratelimit-remaining-tokens"] == "0"
    assert limits.headers(who)["x-ratelimit-reset-tokens"] == "3m27.6s"


def test_a_limit_may_change_while_the_service_runs() -> None:
    world = World()
    limits = world.limits()
    limits.admit(key(requests=1), 1, 1)
    refused(limits, key(requests=1))
    limits.admit(key(requests=10), 1, 1)
    refused(limits, key(requests=2))


@given(
    st.lists(
        st.tuples(st.floats(0, 30), st.integers(1, 30), st.integers(1, 30), st.floats(0, 1)), max_size=60
    ),
    st.integers(1, 10),
    st.integers(60, 300),
)
def test_no_minute_sees_more_than_two_bursts(
    asks: list[tuple[float, int, int, float]], requests: int, tokens: int
) -> None:
    """A bucket's law: in any time t at most a full bucket and what flows in during t, here for t = 60 s."""
    world = World()
    limits, who = world.limits(), key(requests, tokens)
    admitted: list[tuple[float, int]] = []
    for pause, prompt, answer, share in asks:
        world.monotonic += pause
        try:
            held = limits.admit(who, prompt, answer)
        except ApiError:
            continue
        used = prompt + int(share * answer)
        limits.settle(held, used)
        admitted.append((world.monotonic, used))
    for start, _ in admitted:
        minute = [used for when, used in admitted if start <= when < start + 60]
        assert len(minute) <= 2 * requests
        assert sum(minute) <= 2 * tokens


@given(st.integers(1, 59), st.integers(0, 600), st.integers(1, 9), st.integers(60, 600))
def test_who_waits_as_told_is_let_in(prompt: int, answer: int, requests: int, tokens: int) -> None:
    world = World()
    limits, who = world.limits(), key(requests, tokens)
    for _ in range(20):
        try:
            limits.admit(who, prompt, answer)
        except ApiError as error:
            world.monotonic += error.retry_after or 0
            limits.admit(who, prompt, answer)

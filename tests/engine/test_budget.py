"""The memory budget: whatever is planned fits, and what is refused is told what would fit."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.core.errors import OutOfMemory, UsageError
from sampan.engine import budget
from sampan.engine.budget import LEAST_CONTEXT, Footprint, Plan, Wish, plan
from sampan.kernels.backend import PAGE

MB = 10**6
# The sizes of SmolLM2-135M.
MODEL = Footprint(
    name="smol", context=8192, weights=97 * MB, workspace=17 * MB, logits=196_608,
    page={"bf16": 737_280, "f32": 1_474_560, "int8": 391_680}, dtype="bf16",
)  # fmt: skip
FIXED = MODEL.fixed(64)


def total(found: Plan) -> int:
    return found.weights_bytes + found.workspace_bytes + found.cache_bytes


wishes = st.builds(
    Wish,
    memory=st.integers(1, 4000).map(lambda mb: mb * MB),
    context=st.none() | st.integers(2, 8192),
    max_sequences=st.integers(1, 300),
    cache_tokens=st.none() | st.integers(1, 100_000),
    cache=st.sampled_from([None, "bf16", "int8", "f32", "auto"]),
)


def least(wish: Wish) -> int:
    """Bytes without which the wish cannot be granted."""
    asked = wish.cache_tokens or wish.context or LEAST_CONTEXT
    smallest = MODEL.page["int8" if wish.cache == "auto" else wish.cache or "bf16"]
    return MODEL.fixed(wish.max_sequences) + (-(-asked // PAGE) + 1) * smallest


@given(wishes, st.integers(1, 80 * MB))
def test_states_fit_beside_the_pages(wish: Wish, state: int) -> None:
    model = replace(MODEL, state=state)
    assert wish.memory is not None
    if least(wish) + state > wish.memory:
        with pytest.raises(OutOfMemory, match=r"^[^\n]*$"):
            plan(model, wish)
        return
    found = plan(model, wish)
    assert total(found) <= wish.memory
    assert 1 <= found.states <= 2 * wish.max_sequences
    assert found.cache_bytes == found.pages * model.page[found.cache] + found.states * state
    room = wish.memory - model.fixed(wish.max_sequences)
    assert found.states == 1 or found.states * state <= room / 4


@given(wishes)
def test_a_plan_fits_and_holds_what_was_asked(wish: Wish) -> None:
    assert wish.memory is not None
    if least(wish) > wish.memory:
        with pytest.raises(OutOfMemory, match=r"^[^\n]*$"):
            plan(MODEL, wish)
        return
    found = plan(MODEL, wish)
    assert total(found) <= wish.memory
    assert found.cache_bytes == found.pages * MODEL.page[found.cache]
    if wish.context:
        assert found.context == min(wish.context, wish.cache_tokens or wish.context)
    if wish.cache_tokens:
        assert found.cache_tokens > wish.cache_tokens
    assert found.context < found.cache_tokens
    assert found.cache == (wish.cache or "bf16") or wish.cache == "auto"


@given(wishes)
def test_what_a_refusal_says_would_fit_does_fit(wish: Wish) -> None:
    try:
        plan(MODEL, wish)
    except OutOfMemory as refusal:
        said = str(refusal)
    else:
        return
    for number, dtype in re.findall(r"(\d+) tokens of (\w+) cache would fit", said):
        tokens = int(number)
        again = replace(wish, context=min(tokens, wish.context or tokens), cache=dtype)
        plan(MODEL, replace(again, cache_tokens=wish.cache_tokens and tokens))
    for number, dtype in re.findall(r"(\d+) sequences with (\w+) cache would fit", said):
        assert wish.context is not None
        plan(MODEL, replace(wish, cache_tokens=int(number) * wish.context, cache=dtype))
    if "an int8 cache would fit" in said:
        plan(MODEL, replace(wish, cache="int8"))
    if enough := re.search(r"the least is (\d+)MB", said):
        smaller = Wish(memory=int(enough[1]) * MB, context=1, max_sequences=1)
        assert {plan(MODEL, replace(smaller, cache=cache)).context for cache in ("int8", "auto")} == {1}


def test_a_refusal_names_every_number() -> None:
    with pytest.raises(OutOfMemory) as refused:
        plan(MODEL, Wish(memory=300 * MB, context=8192))
    assert str(refused.value) == (
        "smol with 8192 tokens of bf16 cache and 64 sequences takes 328.6 MB (97.0 MB of weights, 42.2 MB of "
        "workspace, 189.5 MB of cache), 300.0 MB are allowed: 6944 tokens of bf16 cache would fit, "
        "an int8 cache would fit"
    )
    with pytest.raises(OutOfMemory, match="the least is 140MB: allow that, or take a smaller model"):
        plan(MODEL, Wish(memory=100 * MB))


def test_auto_takes_eight_bits_only_where_it_must() -> None:
    roomy, tight = Wish(memory=400 * MB, cache="auto"), Wish(memory=250 * MB, cache="auto")
    assert plan(MODEL, roomy).cache == "bf16"
    assert (plan(MODEL, tight).cache, plan(MODEL, tight).context) == ("int8", 8192)
    assert plan(MODEL, replace(tight, cache=None)).cache == "bf16"
    assert plan(replace(MODEL, dtype="f32"), replace(roomy, cache=None)).cache == "f32"


def test_given_memory_is_used_and_no_more_than_can_be_of_use() -> None:
    assert plan(MODEL, Wish(memory=1000 * MB)).cache_bytes > 1000 * MB - FIXED - MODEL.page["bf16"]
    one = plan(MODEL, Wish(memory=10_000 * MB, max_sequences=1))
    assert (one.context, one.cache_tokens) == (8192, 8192 + PAGE)


@pytest.mark.parametrize("free", [400 * MB, 2000 * MB, None])
def test_without_a_limit_half_of_what_is_free_is_left(
    monkeypatch: pytest.MonkeyPatch, free: int | None
) -> None:
    monkeypatch.setattr(budget, "available_memory", lambda: free)
    found = plan(MODEL, Wish(max_sequences=4))
    assert found.context == found.cache_tokens - PAGE <= 8192
    if free is None or free > 1000 * MB:
        assert found.context == 8192
    else:
        assert FIXED + 2 * found.cache_bytes <= free
    asked = Wish(context=8192, max_sequences=4)
    assert plan(MODEL, asked).context == 8192  # what is asked for may take all of it


def test_what_is_not_free_is_refused_before_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "available_memory", lambda: 200 * MB)
    with pytest.raises(OutOfMemory, match=r"200\.0 MB are free"):
        plan(MODEL, Wish(context=8192))


def test_a_context_that_the_model_has_not() -> None:
    with pytest.raises(UsageError, match="a context of 9000 tokens was asked for: smol holds 8192"):
        plan(MODEL, Wish(context=9000))

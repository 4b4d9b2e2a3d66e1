"""Rewards of form: their bounds, and what raises and lowers them."""

from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sampan.core.errors import UsageError
from sampan.core.types import Completion
from sampan.envs.form import brief, formatted, near, repeating, same_script, tags
from sampan.envs.rewards import Reward, ended, overlong, together
from sampan.envs.task import Problem

ASKED = Problem("What is 1 + 1?", "2")
ANY = st.text()
INNER = st.text().filter(lambda text: "<think>" not in text and "answer>" not in text and "</" not in text)
WORDS = st.lists(st.sampled_from("abcd"), max_size=20)


def said(text: str, tokens: int = 1, reasoning: str = "") -> Completion:
    return Completion(text, reasoning, (1,) * tokens, (), "stop", 1)


@given(ANY, ANY, st.integers(0, 300))
@settings(deadline=None)
def test_every_reward_has_its_bounds(text: str, question: str, tokens: int) -> None:
    asked, answer = Problem(question, "x"), said(text, tokens)
    for reward in (formatted(), tags(), near(50, 20), brief(100), same_script):
        assert 0.0 <= reward(asked, answer) <= 1.0
    for reward in (repeating(), overlong(100, 20)):
        assert -1.0 <= reward(asked, answer) <= 0.0


@given(INNER, INNER)
@settings(deadline=None)
def test_the_form_is_thoughts_and_an_answer(thoughts: str, answer: str) -> None:
    text = f"<think>{thoughts}</think>\n<answer>{answer}</answer>"
    assert formatted()(ASKED, said(text)) == tags()(ASKED, said(text)) == 1.0
    assert formatted()(ASKED, said(f"<answer>{answer}</answer>", reasoning=thoughts or "x")) == 1.0
    own = text.replace("think>", "plan>").replace("answer>", "result>")
    assert formatted("plan", "result")(ASKED, said(own)) == 1.0
    assert formatted()(ASKED, said(own)) == 0.0


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("4", 0.0),
        ("<answer>4</answer>", 0.5),
        ("<think>a<answer>4</answer>", 0.75),
        ("Well: <think>a</think><answer>4</answer>", 1.0),
        ("<think>a</think><answer>4</answer> Bye.", 1.0),
        ("<answer>4</answer><think>a</think>", 1.0),
        ("<think>a</think> so <answer>4</answer>", 1.0),
        ("<think>a</think><think>b</think><answer>4</answer>", 0.5),
        ("<think>a</think><answer>3</answer><answer>4</answer>", 0.5),
        ("<think><answer>3</answer></think><answer>4</answer>", 0.5),
        ("<THINK>a</THINK><answer>4</answer>", 0.5),
    ],
)
def test_what_is_not_the_form(text: str, share: float) -> None:
    assert formatted()(ASKED, said(text)) == 0.0
    assert tags()(ASKED, said(text)) == share


@given(st.integers(0, 200), st.integers(0, 200))
@settings(deadline=None)
def test_lengths(one: int, other: int) -> None:
    aim, short = near(80, 30), brief(120)
    assert aim(ASKED, said("", 80)) == 1.0
    if abs(one - 80) <= abs(other - 80):
        assert aim(ASKED, said("", one)) >= aim(ASKED, said("", other))
    if one <= other:
        assert short(ASKED, said("", one)) >= short(ASKED, said("", other))
    assert aim(ASKED, said("", 110)) == aim(ASKED, said("", 50)) == short(ASKED, said("", 120)) == 0.0


@pytest.mark.parametrize(
    ("question", "answer", "share"),
    [
        ("What is it?", "It is four.", 1.0),
        ("What is it?", "Это четыре.", 0.0),
        ("What is it?", "abв", 2 / 3),
        ("What is it?", "naïve, ﬁne, 𝑥 = ４", 1.0),
        ("それは何ですか、東京", "カタカナと漢字", 1.0),
        ("这是什么", "four", 0.0),
        ("What is 这?", "这 is this", 1.0),
        ("1 + 1 = ?", "два", 1.0),
        ("What is it?", "4 😀", 1.0),
        ("", "", 1.0),
    ],
)
def test_scripts(question: str, answer: str, share: float) -> None:
    assert same_script(Problem(question, ""), said(answer)) == pytest.approx(share)
    assert same_script(Problem(question, ""), said("", reasoning=answer)) == pytest.approx(share)


@given(WORDS, st.integers(1, 4))
@settings(deadline=None)
def test_repeating_costs(words: list[str], run: int) -> None:
    reward = repeating(run)
    once, twice = " ".join(words), " ".join(words * 2)
    if len(words) >= run:
        assert reward(ASKED, said(twice)) < 0.0
        assert reward(ASKED, said(twice)) <= reward(ASKED, said(once))
    assert reward(ASKED, said(" ".join(map(str, range(30))))) == 0.0


@given(
    st.lists(st.tuples(st.floats(-3, 3), st.sampled_from([ended, same_script, brief(9), tags()])), max_size=4)
)
@settings(deadline=None)
def test_rewards_add_up_by_weight(parts: list[tuple[float, Reward]]) -> None:
    answer = said("<think>a", 4)
    whole = together({str(place): part for place, part in enumerate(parts)})
    assert whole(ASKED, answer) == pytest.approx(sum(weight * part(ASKED, answer) for weight, part in parts))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: formatted("<think>"), "think is '<think>': give a tag's name"),
        (lambda: tags("a", "a"), "both 'a'"),
        (lambda: formatted(answer=""), "answer is ''"),
        (lambda: near(0, 5), "tokens is 0"),
        (lambda: near(5, 0), "width is 0"),
        (lambda: brief(0), "longest is 0"),
        (lambda: repeating(0), "words is 0"),
    ],
)
def test_options_are_refused_by_name(make: Callable[[], Reward], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        make()


@given(ANY, ANY)
@settings(deadline=None)
def test_text_outside_of_the_tags_breaks_the_form(before: str, after: str) -> None:
    assume(before.strip() or after.strip())
    text = f"{before}<think>a</think><answer>4</answer>{after}"
    assert formatted()(ASKED, said(text)) == 0.0

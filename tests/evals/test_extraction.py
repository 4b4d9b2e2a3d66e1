"""What is found in answers: the same however it is written, and nothing where nothing is said."""

from collections.abc import Callable
from fractions import Fraction
from string import ascii_uppercase
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sampan.evals.tasks.choices import choice_in
from sampan.evals.tasks.labels import label_in
from sampan.evals.tasks.numbers import number_in
from sampan.evals.tasks.said import boxed, spoken

ENDS = (
    "The answer is {}.",
    "**Answer:** {}",
    "### Answer\n{}",
    "Therefore, the final answer is $\\boxed{{{}}}$.",
    "<think>\nThe answer is 12 (E) false box.\n</think>\n\n{}",
    "So the correct answer would be **{}**.",
    "It took a while.\n\n{}",
)


# Numbers


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("#### 1,430", "1430"),
        ("5 + 3 = 8\n#### 8\nThat uses all 12.", "8"),
        ("The answer is 18 dollars, since 20 - 2 leaves that.", "18"),
        ("The answer is 3 * 6 = 18.", "18"),
        ("The answer is $-5.50.", "-11/2"),
        ("It costs -$5", "-5"),
        ("\\boxed{1{,}430\\text{ miles}}", "1430"),
        ("\\boxed{x = 7}", "7"),
        ("\\boxed{\\frac{3}{2}}", "3/2"),
        ("\\boxed{073}", "73"),
        ("Answer: 42\n\nThere are 7 days.", "42"),
        ("**Answer**\n\n42", "42"),
        ("She has 10-5 apples", "5"),
        ("between 5-10", "10"),
        ("\u22125", "-5"),
        ("3,5", "5"),
        ("The answer is not 5. It is 6.", "6"),
        ("The answer is eighteen, or 18", "18"),
        ("room B12 has 30 seats", "30"),
        ("<think>It is 4", None),
        ("none", None),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_the_number_that_a_text_answers_with(text: str, found: str | None) -> None:
    assert number_in(text) == found


@given(
    st.integers(-(10**9), 10**9),
    st.sampled_from(["{:d}", "{:,d}", "{:d}.0", "**{:,d}**", "${:d}$"]),
    st.sampled_from(
        [
            "The answer is {}.",
            "So 2 + 3 = 5, and then\n#### {}",
            "\\boxed{{{}}}",
            "Answer: {} km",
            "First 7, then {}",
        ]
    ),
    st.text(st.characters(exclude_characters="<"), max_size=40).map(lambda text: text.replace("answer", "")),
)
@example(-5, "{:d}", "Answer: {} km", "")
def test_a_number_is_found_however_it_is_written(number: int, form: str, end: str, before: str) -> None:
    assert number_in(f"{before}\nIt is 7.\n{end.format(form.format(number))}") == str(number)


@given(st.decimals(-(10**6), 10**6, places=3))
def test_a_decimal_has_one_value_however_it_is_written(number: Any) -> None:
    found = number_in(f"The answer is {number}")
    assert found is not None
    assert Fraction(found) == Fraction(number)


# Choices

OPTIONS = ("a plane", "plane", "Zhao travels by car", "none of the above")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("B", 1), ("b", 1), ("(c)", 2), ("C.", 2), ("**D**", 3), ("Option D", 3), ("D) none of the above", 3),
        ("B. plane\n\nZhao has no car, so it is a plane.", 1),
        ("The answer is (B).", 1), ("The answer is B because A is wrong.", 1), ("the answer is b.", 1),
        ("The correct answer is: **C**", 2), ("Answer: $\\boxed{\\text{D}}$", 3), ("\\boxed{B}", 1),
        ("The answer is A plane.", 0), ("The answer is plane", 1), ("The answer is option C, by car.", 2),
        ("The answer is A? No. The answer is D", 3),
        ("A is wrong.\nB is wrong.\n(C) is correct.\nD is not.", 2),
        ("A. Zhao flies: wrong.\nB. He walks: wrong.\nThe answer must be C", 2),
        ("Zhao travels by car", 2), ("I think that Zhao travels by car!", 2), ("Hence none of the above.", 3),
        ("That leaves (B)", 1), ("I choose B", 1), ("Option A is out: so (B)", 1), ("(A) or (B)", None),
        ("The answer is A or B", None), ("The answer is (A) or (B).", None), ("The answer is a dog.", None),
        ("I am not sure.", None), ("A man travels", None), ("It is E", None), ("A. this\nB. that", None),
        ("", None), ("<think>The answer is B", None), ("<think>A</think>The answer is B", 1),
    ],
)  # fmt: skip
def test_the_option_that_a_text_answers_with(text: str, found: int | None) -> None:
    assert choice_in(text, OPTIONS) == found


@st.composite
def asked(draw: Callable[..., Any]) -> tuple[list[str], int]:
    words = st.text("abcdefghij ", min_size=3, max_size=20).map(str.strip).filter(lambda text: len(text) > 2)
    options = draw(st.lists(words, min_size=2, max_size=10, unique=True))
    return options, draw(st.integers(0, len(options) - 1))


@given(asked(), st.sampled_from(ENDS), st.sampled_from(["{}", "({})", "{}.", "**{}**", "{})"]))
def test_a_letter_is_found_however_it_is_written(choice: tuple[list[str], int], end: str, form: str) -> None:
    options, right = choice
    text = end.format(form.format(ascii_uppercase[right]))
    assert choice_in(text, options) == right, text


@given(asked(), st.text(max_size=200))
@settings(max_examples=300)
def test_whatever_is_said_an_option_is_found_or_none(choice: tuple[list[str], int], text: str) -> None:
    found = choice_in(text, choice[0])
    assert found is None or 0 <= found < len(choice[0])
    label_in(text, ("true", "false"))
    number_in(text)


# Labels


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("True", "true"), ("False. That it is true is nowhere said.", "false"), ("Untrue", None),
        ("The answer is **True**.", "true"), ("It is not true.", None), ("Answer:\n\nfalse", "false"),
        ("It isn't true. The answer is false", "false"), ("\\boxed{\\text{False}}", "false"),
        ("So it would be true, and that cannot be: false", "false"), ("<think>true", None),
    ],
)  # fmt: skip
def test_the_label_that_a_text_answers_with(text: str, found: str | None) -> None:
    assert label_in(text, ("true", "false")) == found


@given(
    st.sampled_from(ENDS),
    st.sampled_from(["entailment", "contradiction", "neutral"]),
    st.sampled_from([str, str.title, str.upper]),
)
def test_a_label_is_found_however_it_is_written(end: str, label: str, form: Callable[[str], str]) -> None:
    assert label_in(end.format(form(label)), ("entailment", "contradiction", "neutral")) == label


@given(*2 * [st.text(st.characters(exclude_characters="<"), max_size=50)])
def test_a_thought_is_no_part_of_an_answer(thought: str, text: str) -> None:
    said = f"<think>{thought}</think>{text}"
    assert spoken(said) == text
    assert spoken(f"<think>{thought}") == ""
    assert spoken(f"{thought}</thinking>{text}") == text


@given(st.recursive(st.text("ab ", max_size=5), lambda inner: inner.map(lambda text: f"{{{text}}}x")))
def test_a_box_is_read_whatever_braces_it_has(inside: str) -> None:
    assert boxed(f"so $\\boxed{{{inside}}}$ and }} more {{") == inside
    assert boxed(f"\\boxed{{{inside}") is None

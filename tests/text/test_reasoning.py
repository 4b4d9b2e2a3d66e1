"""Reasoning and answer are told apart however the text is cut into pushes, and no character is lost."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.text.reasoning import Piece, ReasoningSplitter, starts_inside_reasoning


def split(pushes, **options):
    """The reasoning and the text of an answer that comes in these pushes."""
    splitter = ReasoningSplitter(**options)
    pieces = [piece for text in pushes for piece in splitter.push(text)] + splitter.finish()
    assert all(piece.text for piece in pieces)
    return tuple(
        "".join(piece.text for piece in pieces if piece.kind == kind) for kind in ("reasoning", "text")
    )


@pytest.mark.parametrize(
    ("answer", "reasoning", "text"),
    [
        ("<think>\nbecause\n</think>\n\nYes.", "\nbecause\n", "\n\nYes."),
        ("\n<think>because</think>Yes.", "because", "\nYes."),
        ("<think></think>Yes.", "", "Yes."),
        ("Yes.", "", "Yes."),
        ("", "", ""),
        ("<thinking> about it", "", "<thinking> about it"),
        ("<thi", "", "<thi"),
        ("<think>never closed", "never closed", ""),
        ("<think>a < b </thin", "a < b </thin", ""),
        ("<think>a </ </think>b", "a </ ", "b"),
        ("<think>a<think>b</think>c", "a<think>b", "c"),
        ("<think>a</think>b<think>c</think>d", "a", "b<think>c</think>d"),
        ("Use <think> tags </think> like this.", "", "Use <think> tags </think> like this."),
    ],
)
def test_an_answer_that_opens_its_reasoning(answer, reasoning, text):
    assert split([answer]) == (reasoning, text)
    assert split(list(answer)) == (reasoning, text)


@pytest.mark.parametrize(
    ("answer", "reasoning", "text"),
    [
        ("because</think>Yes.", "because", "Yes."),
        ("</think>Yes.", "", "Yes."),
        ("never closed", "never closed", ""),
        ("<think>again</think>Yes.", "<think>again", "Yes."),
    ],
)
def test_an_answer_whose_reasoning_the_prompt_has_opened(answer, reasoning, text):
    assert split([answer], starts_inside=True) == (reasoning, text)
    assert split(list(answer), starts_inside=True) == (reasoning, text)


PARTS = st.sampled_from(["<think>", "</think>", "<", "</", "think", ">", " ", "\n", "a", "</think", "b"])


@settings(max_examples=300, deadline=None)
@given(
    parts=st.lists(PARTS, max_size=12), cuts=st.lists(st.integers(0, 60), max_size=12), inside=st.booleans()
)
def test_how_the_answer_is_cut_changes_nothing(parts, cuts, inside):
    answer = "".join(parts)
    edges = sorted({0, len(answer), *(cut for cut in cuts if cut < len(answer))})
    pushes = [answer[start:end] for start, end in pairwise(edges)]
    assert split(pushes, starts_inside=inside) == split([answer], starts_inside=inside)


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(PARTS, max_size=12), inside=st.booleans())
def test_no_character_is_lost(parts, inside):
    splitter = ReasoningSplitter(starts_inside=inside)
    answer = "".join(parts)
    joined = "".join(piece.text for part in [*parts] for piece in splitter.push(part))
    joined += "".join(piece.text for piece in splitter.finish())
    opened = not inside and answer.lstrip().startswith("<think>")
    expected = answer.replace("<think>", "", 1) if opened else answer
    assert joined == (expected.replace("</think>", "", 1) if opened or inside else expected)


def test_pieces_come_as_soon_as_they_are_certain():
    splitter = ReasoningSplitter()
    assert splitter.push("<thi") == []
    assert splitter.push("nk>so") == [Piece("reasoning", "so")]
    assert splitter.push(" then </") == [Piece("reasoning", " then ")]
    assert splitter.push("b") == [Piece("reasoning", "</b")]
    assert splitter.push("</think>Yes") == [Piece("text", "Yes")]
    assert splitter.push("<think>") == [Piece("text", "<think>")]


def test_other_tags():
    assert split(["[THINK]a[/THINK]b"], open="[THINK]", close="[/THINK]") == ("a", "b")


@pytest.mark.parametrize(
    ("prompt", "inside"),
    [
        ("<｜User｜>Hi<｜Assistant｜><think>\n", True),
        ("<|im_start|>assistant\n<think>", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>assistant\n", False),
        ("Write <think> tags.<|im_start|>assistant\n", False),
        ("", False),
    ],
)
def test_whether_a_prompt_opens_the_reasoning(prompt, inside):
    assert starts_inside_reasoning(prompt) == inside

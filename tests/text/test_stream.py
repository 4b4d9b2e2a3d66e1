"""Streaming shows exactly the decoded text, never too much and never late."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from sampan.core.errors import RequestError, TokenizerError
from sampan.text.stream import TextStream
from sampan.text.tokenizer import Tokenizer

PIECES = ["▁", "a", "b", "▁a", "ab", "bc", "▁▁", "é", "\n", "日本", "👍"]


def sentencepiece() -> Tokenizer:
    """A SentencePiece vocabulary in which every byte is a token."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    return Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(PIECES),
            "tokenizer.ggml.scores": [-float(token) for token in range(len(tokens))],
        }
    )


def byte_level() -> Tokenizer:
    """A byte-level vocabulary with few merges, so that most characters come in parts."""
    tokens = [
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        "ab",
        "bc",
        "Ġa",
        "ĠĠ",
        "Ã©",
        "<|im_end|>",
        "<think>",
    ]
    return Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "llama-bpe",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [1] * 261 + [3, 4],
            "tokenizer.ggml.merges": ["a b", "b c", "Ġ a", "Ġ Ġ", "Ã ©"],
        }
    )


@pytest.fixture(scope="module", params=[byte_level, sentencepiece])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return request.param()


def cut(text: str, stops: list[str]) -> tuple[str, bool]:
    """`text` up to the stop string that is complete first (the longest of several), and if there is one."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


LETTERS = st.text(st.sampled_from("ab"), min_size=1, max_size=6)
SHORT = st.one_of(LETTERS, st.text(st.sampled_from("ab \n<é👍\ufffd"), min_size=1, max_size=5))
STOPS = st.lists(SHORT, max_size=3)
TEXTS = st.lists(
    st.one_of(SHORT, st.text(max_size=6), st.sampled_from(["<|im_end|>", "日本", " a", "abab"])), max_size=10
)


def draw_ids(data: st.DataObject, tokenizer: Tokenizer) -> list[int]:
    """Ids of a text with some wild ones in between, so that characters come whole, in parts and broken."""
    ids = tokenizer.encode("".join(data.draw(TEXTS)), add_bos=False)
    for token in data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=5)):
        ids.insert(data.draw(st.integers(0, len(ids))), token)
    return ids


@settings(max_examples=200, deadline=None)
@given(data=st.data(), stops=STOPS)
def test_all_that_is_shown_is_the_text_up_to_the_first_stop(tokenizer, data, stops):
    ids = draw_ids(data, tokenizer)
    stream = TextStream(tokenizer, stops)
    shown = "".join([stream.push(token) for token in ids] + [stream.finish()])
    assert (shown, stream.stopped) == cut(tokenizer.decode(ids), stops)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), stops=STOPS)
def test_nothing_is_shown_that_a_later_token_could_change(tokenizer, data, stops):
    ids, later = draw_ids(data, tokenizer), draw_ids(data, tokenizer)
    stream = TextStream(tokenizer, stops)
    shown = "".join(stream.push(token) for token in ids)
    for continued in (ids, ids + later):
        assert cut(tokenizer.decode(continued), stops)[0].startswith(shown)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_nothing_is_held_back_without_need(tokenizer, data):
    stream = TextStream(tokenizer)
    shown = ""
    ids = tokenizer.encode("".join(data.draw(TEXTS)).replace("\ufffd", ""), add_bos=False)
    for place, token in enumerate(ids, 1):
        shown += stream.push(token)
        assert shown == tokenizer.decode(ids[:place]).rstrip("\ufffd")


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    return sentencepiece()


def ids_of(tokenizer: Tokenizer, *pieces: str) -> list[int]:
    entries = {tokenizer.token_text(token): token for token in range(tokenizer.vocab_size)}
    return [entries[piece] for piece in pieces]


def test_a_character_in_parts_is_shown_when_it_is_whole(letters):
    stream = TextStream(letters)
    parts = ids_of(letters, "a", "<0xF0>", "<0x9F>", "<0x91>", "<0x8D>", "b")
    assert [stream.push(token) for token in parts] == ["a", "", "", "", "👍", "b"]
    assert stream.finish() == ""


def test_a_character_that_never_comes_in_full_is_replaced_at_the_end(letters):
    stream = TextStream(letters)
    assert [stream.push(token) for token in ids_of(letters, "a", "<0xF0>", "<0x9F>")] == ["a", "", ""]
    assert stream.finish() == "\ufffd"


def test_a_stop_string_over_several_tokens(letters):
    stream = TextStream(letters, ["abc"])
    assert [stream.push(token) for token in ids_of(letters, "b", "a", "bc", "b")] == ["b", "", "", ""]
    assert stream.stopped
    assert stream.finish() == ""


def test_a_stop_string_that_is_not_completed_is_shown(letters):
    stream = TextStream(letters, ["abc"])
    assert [stream.push(token) for token in ids_of(letters, "a", "b", "b")] == ["", "", "abb"]
    assert [stream.push(token) for token in ids_of(letters, "a", "b")] == ["", ""]
    assert not stream.stopped
    assert stream.finish() == "ab"


def test_a_stop_string_whose_beginning_comes_twice(letters):
    stream = TextStream(letters, ["aab"])
    assert [stream.push(token) for token in ids_of(letters, "a", "a", "a", "b")] == ["", "", "a", ""]
    assert stream.stopped


def test_of_stop_strings_complete_at_once_the_longest_counts(letters):
    stream = TextStream(letters, ["b", "ab", "bb"])
    assert [stream.push(token) for token in ids_of(letters, "é", "a", "b")] == ["é", "", ""]
    assert stream.stopped


def test_text_before_a_stop_string_in_the_same_token_is_shown(letters):
    stream = TextStream(letters, ["c"])
    assert stream.push(ids_of(letters, "bc")[0]) == "b"
    assert stream.stopped


def test_control_tokens_are_neither_shown_nor_break_a_stop_string(letters):
    stream = TextStream(letters, ["ab"])
    assert [stream.push(token) for token in ids_of(letters, "é", "</s>", "a", "<s>", "b")] == [
        "é",
        "",
        "",
        "",
        "",
    ]
    assert stream.stopped


def test_only_the_space_of_the_encoding_is_left_out(letters):
    stream = TextStream(letters)
    assert [stream.push(token) for token in ids_of(letters, "▁▁", "▁a", "▁")] == [" ", " a", " "]


def test_an_empty_stop_string_is_refused(letters):
    with pytest.raises(RequestError, match="empty"):
        TextStream(letters, ["a", ""])


def test_an_id_outside_the_vocabulary_is_refused(letters):
    with pytest.raises(TokenizerError, match="outside the vocabulary"):
        TextStream(letters).push(letters.vocab_size)


def test_the_work_for_a_token_does_not_grow(letters):
    # a stop string of which every text is almost a beginning, the worst case for holding back
    stream = TextStream(letters, ["a" * 2000 + "b", "ab" * 500, "c"])
    token = ids_of(letters, "a")[0]

    def seconds(pushes: int) -> float:
        start = time.perf_counter()
        for _ in range(pushes):
            stream.push(token)
        return time.perf_counter() - start

    first = min(seconds(2000) for _ in range(3))
    seconds(20_000)
    assert min(seconds(2000) for _ in range(3)) < 10 * first


CONTROL_STOPS = {
    "<|file_sep|>": (["a", "b", "<|file_sep|>", "c"], "ab"),
    "b<|file_sep|>": (["a", "b", "<|file_sep|>", "c"], "a"),
    "<|file_sep|>c": (["a", "<|file_sep|>", "b", "<|file_sep|>", "c", "a"], "ab"),
    "b<|im_end|><|file_sep|>c": (["b", "<|im_end|>", "b", "<|im_end|>", "<|file_sep|>", "c"], "b"),
    "<|im_end|>": (["a", "|", "<", "|", "<|im_end|>", "c"], "a|<|"),
}


@pytest.fixture(scope="module")
def controlled() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, "<|im_end|>", "<|file_sep|>"]
    return Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "qwen2",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [1] * len(letters) + [3, 3],
            "tokenizer.ggml.merges": [],
        }
    )


@pytest.mark.parametrize(("stop", "case"), CONTROL_STOPS.items())
def test_a_stop_text_may_be_or_hold_a_control_token(controlled, stop, case):
    pieces, shown = case
    stream = TextStream(controlled, ["zz", stop])
    assert "".join(map(stream.push, ids_of(controlled, *pieces))) + stream.finish() == shown
    assert stream.stop_text == stop


def test_a_control_token_spelt_out_is_a_stop_text_as_well(controlled):
    stream = TextStream(controlled, ["<|file_sep|>"])
    spelt = controlled.encode("ab<|file_sep|>c", special=False)
    assert "".join(map(stream.push, spelt)) + stream.finish() == "ab"


def test_parts_of_control_tokens_are_no_stop_text(controlled):
    stream = TextStream(controlled, ["|", "sep", "bc"])
    ids = ids_of(controlled, "a", "<|file_sep|>", "b", "<|im_end|>", "d")
    assert "".join(map(stream.push, ids)) + stream.finish() == "abd"
    assert not stream.stopped

"""Token for token: what our tokenizer does to any text is what transformers does, from either file format."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.core.errors import TokenizerError
from sampan.text.tokenizer import Tokenizer

SPACES = st.text(st.sampled_from(" \t\n\r\u00a0\u3000\u200b"), max_size=6)
DIGITS = st.text(st.sampled_from("0123456789٣५②½"), max_size=12)
SCRIPTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
ASCII = st.text(st.characters(max_codepoint=0x7F), max_size=12)
WORDS = st.sampled_from(
    [
        "don't",
        "WE'LL",
        "I’m",
        " harbour",
        "ـ've",
        "日本語",
        "カタカナ",
        "👩‍👩‍👧",
        "é",
        "e\u0301",
        "ﬁ",
        "각",
        "#include",
        "://",
        "();",
    ]
)
MARKS = st.sampled_from(
    [
        "<|im_start|>",
        "<|im_end|>",
        "<|eot_id|>",
        "<think>",
        "</think>",
        "<｜User｜>",
        "<|endoftext|>",
        "<|im_",
        "<unk>",
    ]
)
TEXTS = st.lists(st.one_of(SPACES, DIGITS, SCRIPTS, ASCII, WORDS, MARKS), max_size=10).map("".join)


@pytest.fixture(scope="session", params=["gguf", "folder"])
def rebuilt(request, trained):
    """Our tokenizer from either format, beside what it was built from."""
    build = {
        "gguf": lambda: Tokenizer.from_gguf(trained.metadata),
        "folder": lambda: Tokenizer.from_folder(trained.folder),
    }
    return build[request.param](), trained


def test_corpus_is_encoded_as_transformers_does(rebuilt, corpus):
    tokenizer, trained = rebuilt
    for text in corpus:
        assert tokenizer.encode(text) == trained.oracle.encode(text), text
        plain = trained.oracle.encode(text, add_special_tokens=False)
        assert tokenizer.encode(text, add_bos=False) == plain, text


def test_corpus_survives_a_round_trip(rebuilt, corpus):
    tokenizer, trained = rebuilt
    for text in corpus:
        expected = unicodedata.normalize("NFC", text) if "qwen" in trained.name else text
        assert tokenizer.decode(tokenizer.encode(text)) == expected


@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_any_text_is_encoded_as_transformers_does(rebuilt, text):
    tokenizer, trained = rebuilt
    assert tokenizer.encode(text) == trained.oracle.encode(text)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_ids_are_decoded_as_transformers_does(rebuilt, data):
    tokenizer, trained = rebuilt
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    for skip in (True, False):
        assert tokenizer.decode(ids, skip_special=skip) == trained.oracle.decode(
            ids, skip_special_tokens=skip
        )


def test_special_tokens_in_a_text_are_ids_only_if_wanted(rebuilt):
    tokenizer, trained = rebuilt
    for mark in trained.special:
        text = f"a {mark}b"
        assert trained.oracle.convert_tokens_to_ids(mark) in tokenizer.encode(text, add_bos=False)
        literal = tokenizer.encode(text, add_bos=False, special=False)
        assert not tokenizer.special_ids & set(literal)
        assert tokenizer.decode(literal) == text


def test_visible_marks_are_one_token_and_stay_in_the_text(rebuilt):
    tokenizer, trained = rebuilt
    for mark in trained.visible:
        for special in (True, False):
            ids = tokenizer.encode(mark, add_bos=False, special=special)
            assert ids == [trained.oracle.convert_tokens_to_ids(mark)]
            assert tokenizer.decode(ids) == mark


def test_ids_and_texts_of_special_tokens_are_transformers(rebuilt):
    tokenizer, trained = rebuilt
    oracle = trained.oracle
    assert tokenizer.vocab_size == len(oracle)
    assert tokenizer.bos_id == oracle.bos_token_id
    assert tokenizer.bos_text == (oracle.bos_token or "")
    assert tokenizer.eos_text == oracle.eos_token
    assert tokenizer.special_ids == set(oracle.convert_tokens_to_ids(trained.special))
    assert all(
        tokenizer.token_text(token) == oracle.convert_ids_to_tokens(token) for token in range(len(oracle))
    )


def test_every_token_that_ends_a_turn_is_known(rebuilt):
    tokenizer, trained = rebuilt
    ends = {
        "<|endoftext|>",
        "<|im_end|>",
        "<|end_of_text|>",
        "<|eom_id|>",
        "<|eot_id|>",
        "<｜end▁of▁sentence｜>",
    }
    assert tokenizer.eos_ids == set(trained.oracle.convert_tokens_to_ids(sorted(ends & set(trained.special))))


def test_bytes_of_tokens_make_up_the_text(rebuilt, corpus):
    tokenizer, _ = rebuilt
    for text in corpus:
        ids = tokenizer.encode(text)
        visible = [token for token in ids if token not in tokenizer.special_ids]
        assert b"".join(map(tokenizer.token_bytes, visible)).decode() == tokenizer.decode(ids)


def test_only_llama_3_prefers_whole_entries_to_merges(rebuilt):
    tokenizer, trained = rebuilt
    whole = tokenizer.encode(" harbour", add_bos=False)
    assert (len(whole) == 1) == (trained.name == "llama-bpe")


@pytest.mark.parametrize("token", [-1, 10**6, 2**40])
def test_ids_outside_the_vocabulary_are_refused(rebuilt, token):
    tokenizer, _ = rebuilt
    for call in (tokenizer.token_text, tokenizer.token_bytes, lambda token: tokenizer.decode([token])):
        with pytest.raises(
            TokenizerError, match=f"{token} is outside the vocabulary of {tokenizer.vocab_size}"
        ):
            call(token)


def test_text_that_is_no_unicode_is_refused(rebuilt):
    tokenizer, _ = rebuilt
    with pytest.raises(TokenizerError, match="cannot be encoded"):
        tokenizer.encode("lone \ud800 surrogate")


@pytest.mark.parametrize(
    "text", ["5 \u2126", "Re\u0301sume\u0301.pdf", "\u1112\u1161\u11ab", "\u212b", "\ufb01\u0301"]
)
def test_text_that_unicode_writes_in_two_ways_is_read_as_published_from_either_file(rebuilt, text):
    """Qwen's is composed, from GGUF too, though llama.cpp leaves that out: see docs/text.md."""
    tokenizer, trained = rebuilt
    assert tokenizer.encode(text) == trained.oracle.encode(text)
    composed = tokenizer.encode(unicodedata.normalize("NFC", text)) == tokenizer.encode(text)
    assert composed == ("qwen" in trained.name or unicodedata.is_normalized("NFC", text))

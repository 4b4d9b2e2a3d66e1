"""GGUF's `llama` vocabularies: SentencePiece BPE with byte fallback, rebuilt from scores.

The oracle is the tokenizer.json that Llama 2 and its descendants publish (a "▁" before every text, then
byte-pair merging with byte fallback), read by transformers, with merges that transformers derives.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models
from transformers import LlamaTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from sampan.core.errors import TokenizerError
from sampan.text.tokenizer import Tokenizer

TEXTS = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=("Cs",)), max_size=10),
        st.text(st.sampled_from(" \n\t▁"), max_size=4),
        st.sampled_from(
            ["The boat", " crossed", "naïve ", "<s>", "</s>", "<0x0A>", "<unk", "日本", "👩‍👩‍👧"]
        ),
    ),
    max_size=8,
).map("".join)


@pytest.fixture(scope="module", params=["gguf", "folder"])
def tokenizer(request: pytest.FixtureRequest, llama: Any) -> Tokenizer:
    return (
        Tokenizer.from_gguf(llama.metadata)
        if request.param == "gguf"
        else Tokenizer.from_folder(llama.folder)
    )


def test_corpus_is_encoded_as_published(tokenizer, llama, corpus):
    for text in [*corpus, "  two", "▁▁", "a</s>b", "<s> x", "<0x41>"]:
        assert tokenizer.encode(text) == llama.oracle.encode(text), text


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_any_text_is_encoded_as_published(tokenizer, llama, text):
    assert tokenizer.encode(text) == llama.oracle.encode(text)


def test_prose_is_encoded_as_by_llama_tokenizer_fast(tokenizer, llama, corpus):
    # transformers' own class leaves out SentencePiece's space where a text has one already
    oracle = LlamaTokenizerFast(vocab=llama.vocab, merges=llama.merges)
    for text in (text for text in corpus if text and not text.startswith((" ", "▁"))):
        assert tokenizer.encode(text, add_bos=False) == oracle.encode(text), text


def test_corpus_survives_a_round_trip(tokenizer, llama, corpus):
    for text in corpus:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(ids, skip_special=False) == llama.oracle.decode(ids)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_ids_are_decoded_as_published_or_as_utf8(tokenizer, llama, data):
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=20))
    ours, theirs = tokenizer.decode(ids), llama.oracle.decode(ids, skip_special_tokens=True)
    if "\ufffd" in theirs:  # theirs gives up a whole run of bytes for one that is no UTF-8
        raw = b"".join(tokenizer.token_bytes(token) for token in ids if token not in tokenizer.special_ids)
        theirs = raw.removeprefix(b" ").decode("utf-8", "replace")
    assert ours == theirs


@settings(max_examples=200, deadline=None)
@given(
    scores=st.dictionaries(
        st.text(st.sampled_from("ab"), min_size=1, max_size=5), st.integers(-3, 0), max_size=12
    ),
    text=st.text(st.sampled_from("ab"), max_size=12),
)
@example(
    scores={"aaba": -2, "baaa": -1, "aab": -4, "baabb": -4, "aa": -1, "bbb": -1, "aaa": -1}, text="bbbbaaaab"
)
@example(
    scores={"bbab": -1, "bb": -1, "aaba": -4, "ba": -3, "bab": -4, "abb": -3, "bbbba": -4}, text="abababbaa"
)
def test_merges_follow_from_scores_as_transformers_derives_them(scores, text):
    scores = {"▁": -9, "a": -9, "b": -9} | scores
    vocab = {piece: token for token, piece in enumerate(scores)}
    metadata = {"model": "llama", "tokens": list(scores), "scores": list(map(float, scores.values()))}
    tokenizer = Tokenizer.from_gguf({f"tokenizer.ggml.{key}": value for key, value in metadata.items()})
    oracle = Backend(models.BPE(vocab=vocab, merges=generate_merges(vocab, scores)))
    assert tokenizer.encode(text, add_bos=False, special=False) == (
        oracle.encode(f"▁{text}").ids if text else []
    )


def test_unknown_characters_become_bytes(tokenizer):
    ids = tokenizer.encode("\U00013080", add_bos=False)
    assert [tokenizer.token_text(token) for token in ids] == ["▁", "<0xF0>", "<0x93>", "<0x82>", "<0x80>"]
    assert [tokenizer.token_bytes(token) for token in ids] == [b" ", b"\xf0", b"\x93", b"\x82", b"\x80"]


def test_spelled_out_control_tokens_can_stay_text(tokenizer):
    ids = tokenizer.encode("a</s>b<0x41>", special=False)
    assert tokenizer.special_ids & set(ids[1:]) == set()
    assert tokenizer.decode(ids) == "a</s>b<0x41>"


def test_merging_never_makes_a_control_token():
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        "<0x41>",
        "▁",
        "<",
        "s",
        ">",
        "0",
        "x",
        "4",
        "1",
        "<s",
        "<0",
        "x4",
        "<0x4",
        "1>",
    ]
    metadata = {
        "model": "llama",
        "tokens": tokens,
        "token_type": [2, 3, 3, 6] + [1] * 13,
        "scores": [0.0] * len(tokens),
        "add_space_prefix": False,
    }
    tokenizer = Tokenizer.from_gguf({f"tokenizer.ggml.{key}": value for key, value in metadata.items()})
    ids = tokenizer.encode("<s><0x41>", add_bos=False, special=False)
    assert [tokens[token] for token in ids] == ["<s", ">", "<0x4", "1>"]


def test_special_ids(tokenizer):
    assert (tokenizer.bos_id, tokenizer.bos_text, tokenizer.eos_text) == (1, "<s>", "</s>")
    assert tokenizer.eos_ids == {2}
    assert tokenizer.special_ids == {0, 1, 2}
    assert tokenizer.adds_bos


def test_without_space_prefix(llama):
    tokenizer = Tokenizer.from_gguf({**llama.metadata, "tokenizer.ggml.add_space_prefix": False})
    assert tokenizer.encode("The boat", add_bos=False) != llama.oracle.encode(
        "The boat", add_special_tokens=False
    )
    for text in ("The boat", " The boat", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_file_decides_about_bos(llama):
    for stated in (True, False, np.bool_(False)):
        tokenizer = Tokenizer.from_gguf({**llama.metadata, "tokenizer.ggml.add_bos_token": stated})
        assert (tokenizer.encode("x")[0] == 1) == bool(stated)


def test_special_ids_default_to_llama_cpps(llama):
    names = ("bos", "eos", "unknown")
    metadata = {
        k: v for k, v in llama.metadata.items() if k not in {f"tokenizer.ggml.{n}_token_id" for n in names}
    }
    tokenizer = Tokenizer.from_gguf(metadata)
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, {2})


def test_missing_scores_are_refused(llama):
    metadata = {k: v for k, v in llama.metadata.items() if k != "tokenizer.ggml.scores"}
    with pytest.raises(TokenizerError, match=r"tokenizer\.ggml\.scores is missing"):
        Tokenizer.from_gguf(metadata)


def test_an_entry_of_absurd_length_is_refused_at_once(llama):
    tokens = [*llama.metadata["tokenizer.ggml.tokens"]]
    tokens[-1] = "a" * 1_000_000
    with pytest.raises(TokenizerError, match="1000000 characters"):
        Tokenizer.from_gguf({**llama.metadata, "tokenizer.ggml.tokens": tokens})

"""The default model's own tokenizer, as `sampan run` builds it, against transformers on the same file."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sampan.text.chat import ChatTemplate
from sampan.text.tokenizer import Tokenizer
from sampan.weights.gguf import read_gguf


@pytest.fixture(scope="module")
def metadata(default_model):
    return read_gguf(default_model.path).metadata


@pytest.fixture(scope="module")
def tokenizer(metadata):
    return Tokenizer.from_gguf(metadata)


@pytest.fixture(scope="module")
def oracle(default_model):
    path = default_model.path
    oracle = PreTrainedTokenizerFast.from_pretrained(path.parent, gguf_file=path.name)
    # transformers cuts this family as GPT-2 does; the published tokenizer.json isolates digits first
    digits = pre_tokenizers.Digits(individual_digits=True)
    steps = [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    oracle.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return oracle


def test_corpus_is_encoded_as_transformers_does(tokenizer, oracle, corpus):
    for text in corpus:
        ids = tokenizer.encode(text)
        assert ids == oracle.encode(text), text
        assert tokenizer.decode(ids) == oracle.decode(ids), text


@settings(max_examples=150, deadline=None)
@given(
    text=st.lists(
        st.one_of(st.text(max_size=12), st.sampled_from(["<|im_end|>", " 12", "\n\n"])), max_size=5
    ).map("".join)
)
def test_any_text_is_encoded_as_transformers_does(tokenizer, oracle, text):
    assert tokenizer.encode(text) == oracle.encode(text)


def test_digits_stand_alone(tokenizer):
    for text in ("2026", "x12345y", " 007"):
        pieces = [tokenizer.decode([token]) for token in tokenizer.encode(text)]
        assert all(len(piece) == 1 for piece in pieces if any(map(str.isdigit, piece)))


def test_special_ids(tokenizer, oracle):
    assert (tokenizer.bos_id, tokenizer.bos_text, tokenizer.eos_text) == (1, "<|im_start|>", "<|im_end|>")
    assert [tokenizer.token_text(token) for token in sorted(tokenizer.eos_ids)] == [
        "<|endoftext|>",
        "<|im_end|>",
        "<reponame>",  # as in llama.cpp
    ]
    assert tokenizer.special_ids == set(range(17))
    assert tokenizer.vocab_size == len(oracle) == 49152
    assert not tokenizer.adds_bos


def test_prompt_of_the_chat_template(tokenizer, metadata, oracle):
    messages = [{"role": "user", "content": "Why is the sky blue?"}]
    prompt = ChatTemplate.from_gguf(metadata).render(messages)
    assert prompt == oracle.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.encode(prompt, add_bos=False)
    assert ids == oracle.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids[0] == 1


def test_building_is_quick(metadata):
    def seconds():
        start = time.perf_counter()
        Tokenizer.from_gguf(metadata)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.5  # about 0.1 s on one core

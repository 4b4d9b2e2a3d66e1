"""GGUF vocabularies that contradict themselves are refused by name, and none of them crashes."""

import array
import time
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from sampan.core.errors import SampanError, TokenizerError, UnsupportedModel
from sampan.text.tokenizer import Tokenizer
from sampan.text.vocab.pretokenizers import told_by
from sampan.weights.gguf import read_gguf

PREFIX = "tokenizer.ggml."


def metadata(**changes):
    """A vocabulary of five entries with one merge; None removes a key."""
    values = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": ["a", "b", "ab", "<|im_end|>", "<seen>"],
        "token_type": [1, 1, 1, 3, 4],
        "merges": ["a b"],
        "eos_token_id": 3,
    } | changes
    return {PREFIX + key: value for key, value in values.items() if value is not None}


def llama(**changes):
    defaults = {
        "model": "llama",
        "merges": None,
        "scores": [0.0] * 5,
        "bos_token_id": 0,
        "unknown_token_id": 1,
    }
    return metadata(**(defaults | changes))


def test_a_whole_vocabulary_works():
    tokenizer = Tokenizer.from_gguf(metadata())
    assert tokenizer.encode("abb<|im_end|><seen>a") == [2, 1, 3, 4, 0]
    assert tokenizer.decode([2, 1, 3, 4, 0]) == "abb<seen>a"
    assert (tokenizer.eos_ids, tokenizer.bos_id, tokenizer.special_ids) == ({3}, None, {3})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": None}, r"tokenizer\.ggml\.tokens is missing"),
        ({"tokens": "abc"}, r"tokenizer\.ggml\.tokens is of type str, not an array"),
        ({"tokens": ["a", "b", 7, "<|im_end|>", "<seen>"]}, r"tokens\[2\] is of type int, not a string"),
        (
            {"tokens": ["a", "b", b"ab", "<|im_end|>", "<seen>"]},
            r"tokens\[2\] is of type bytes, not a string",
        ),
        ({"tokens": ["a", "b", "ab", "<|im_end|>", "b"]}, r"tokens\[1\] and \[4\] are both 'b'"),
        ({"tokens": []}, r"token_type is 5 long for 0 tokens"),
        ({"token_type": [1, 1]}, r"token_type is 2 long for 5 tokens"),
        ({"token_type": [1, 1, "x", 3, 4]}, r"token_type\[2\] is of type str"),
        ({"token_type": 3}, r"token_type is of type int, not an array"),
        ({"merges": None}, r"merges is missing"),
        ({"merges": ["a b", "a x"]}, r"merges\[1\] is 'a x', but tokenizer\.ggml\.tokens has no 'x'"),
        ({"merges": ["b a"]}, r"merges\[0\] is 'b a', but tokenizer\.ggml\.tokens has no 'ba'"),
        ({"merges": ["ab"]}, r"merges\[0\] is 'ab'"),
        ({"merges": ["a  b"]}, r"merges\[0\] is 'a  b'"),
        ({"merges": ["a b", 3]}, r"merges\[1\] is of type int"),
        ({"eos_token_id": "3"}, r"eos_token_id is of type str, not a token id"),
        ({"pre": 3}, r"tokenizer\.ggml\.pre is of type int, not a string"),
        ({"model": ["gpt2"]}, r"tokenizer\.ggml\.model is of type list, not a string"),
    ],
)
def test_contradictions_are_named(changes, message):
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.from_gguf(metadata(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eos_token_id": 5}, r"eos_token_id: passed over 5: there are 5 tokens$"),
        ({"bos_token_id": -1}, r"bos_token_id: passed over -1: there are 5 tokens$"),
        ({"eot_token_id": 2**32 - 1}, r"eot_token_id: passed over 4294967295: there are 5 tokens$"),
    ],
)
def test_an_id_outside_the_vocabulary_is_passed_over(changes, message):
    # llama.cpp warns of a bad special token and keeps its default, here none
    with pytest.warns(UserWarning, match=message):
        tokenizer = Tokenizer.from_gguf(metadata(**changes))
    assert tokenizer.bos_id is None
    assert tokenizer.eos_ids == {3}
    assert tokenizer.encode("ab<|im_end|>") == [2, 3]


def test_empty_entries_are_called_as_llama_cpp_calls_them():
    with pytest.warns(UserWarning, match=r"tokens: passed over 2 empty entries, the first at \[4\]"):
        tokenizer = Tokenizer.from_gguf(
            metadata(tokens=["a", "b", "ab", "<|im_end|>", "", ""], token_type=[1, 1, 1, 3, 1, 1])
        )
    assert tokenizer.vocab_size == 6
    assert [tokenizer.token_text(token) for token in (4, 5)] == ["[EMPTY_4]", "[EMPTY_5]"]
    assert tokenizer.encode("aab") == [0, 2]


def test_a_merge_that_makes_the_library_panic_is_named():
    # both halves exist, and their sum is longer in bytes than every entry
    vocabulary = metadata(tokens=["é", "ü", "abc"], token_type=[1, 1, 1], merges=["é ü"], eos_token_id=None)
    with pytest.raises(
        TokenizerError, match=r"merges\[0\] is 'é ü', but tokenizer\.ggml\.tokens has no 'éü'"
    ):
        Tokenizer.from_gguf(vocabulary)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"model": "bert"}, "'bert'"),
        ({"model": None}, "None"),
        ({"pre": "chameleon"}, "'chameleon'"),
        ({"pre": "default"}, "'default'"),
        ({"pre": None}, "None"),
    ],
)
def test_what_is_not_implemented_is_named(changes, name):
    with pytest.raises(UnsupportedModel, match=name):
        Tokenizer.from_gguf(metadata(**changes))


@pytest.mark.parametrize("pre", [None, "", "default"])
def test_a_missing_way_to_cut_texts_is_told_by_the_vocabulary(default_model, corpus, pre):
    values = read_gguf(default_model.path).metadata
    expected = Tokenizer.from_gguf(values)
    with pytest.warns(UserWarning, match=rf"tokenizer.ggml.pre is {pre!r}: texts are cut as smollm"):
        found = Tokenizer.from_gguf(values | {"tokenizer.ggml.pre": pre})
    assert all(found.encode(text) == expected.encode(text) for text in corpus)


@pytest.mark.parametrize(
    ("entry", "token", "name"),
    [
        ("<|begin_of_text|>", 128000, "llama-bpe"),
        ("<|endoftext|>", 151643, "qwen2"),
        ("<｜end▁of▁sentence｜>", 151643, "deepseek-r1-qwen"),
        ("<｜begin▁of▁sentence｜>", 0, "deepseek-v3"),
        ("<|endoftext|>", 50256, "gpt-2"),
        ("<|endoftext|>", 100, None),
    ],
)
def test_published_vocabularies_tell_their_family(entry, token, name):
    assert told_by({entry: token, "a": 1}) == name


ALIASES = {
    "llama-bpe": ["llama3", "llama-v3", "falcon3"],
    "qwen2": ["kormo", "megrez"],
    "deepseek-v3": ["joyai-llm"],
    "smollm": ["starcoder", "refact"],
    "gpt-2": ["phi-2"],
}


def test_names_that_llama_cpp_takes_for_the_same(trained, corpus):
    for alias in ALIASES.get(trained.name, []):
        tokenizer = Tokenizer.from_gguf({**trained.metadata, PREFIX + "pre": alias})
        assert all(tokenizer.encode(text) == trained.oracle.encode(text) for text in corpus)


def test_arrays_may_be_numpys(trained, corpus):
    values = dict(trained.metadata)
    types = values[PREFIX + "token_type"]
    values[PREFIX + "tokens"] = np.array(values[PREFIX + "tokens"], dtype=object)
    values[PREFIX + "merges"] = tuple(values[PREFIX + "merges"])
    values[PREFIX + "eos_token_id"] = np.uint32(values[PREFIX + "eos_token_id"])
    plain = Tokenizer.from_gguf(trained.metadata)
    for kind in (np.array(types, np.int32), array.array("i", types), list(types)):
        tokenizer = Tokenizer.from_gguf(values | {PREFIX + "token_type": kind})
        assert [tokenizer.encode(text) for text in corpus] == [plain.encode(text) for text in corpus]
        assert tokenizer.eos_ids == plain.eos_ids


def test_a_turn_end_marked_as_ordinary_text_still_ends_the_turn():
    tokenizer = Tokenizer.from_gguf(metadata(token_type=[1, 1, 1, 1, 1], eos_token_id=4))
    assert tokenizer.eos_ids == {3, 4}
    assert tokenizer.encode("a<|im_end|>b") == [0, 3, 1]


def test_an_id_that_starts_a_text_is_special_whatever_its_type():
    tokenizer = Tokenizer.from_gguf(metadata(token_type=[1] * 5, bos_token_id=4, add_bos_token=True))
    assert tokenizer.encode("a<seen>b") == [4, 0, 4, 1]
    assert tokenizer.decode([4, 0, 4, 1]) == "ab"


def test_every_stated_end_of_a_turn_counts():
    tokenizer = Tokenizer.from_gguf(metadata(eos_token_id=0, eot_token_id=1, eom_token_id=2))
    assert tokenizer.eos_ids == {0, 1, 2, 3}


def test_types_may_be_missing():
    tokenizer = Tokenizer.from_gguf(metadata(token_type=None))
    assert tokenizer.encode("ab<|im_end|>") == [2, 3]


def test_many_control_tokens_take_linear_time():
    def seconds(count):
        tokens = ["a", *(f"<|reserved_{number}|>" for number in range(count))]
        start = time.perf_counter()
        tokenizer = Tokenizer.from_gguf(
            metadata(tokens=tokens, token_type=[1] + [3] * count, merges=[], eos_token_id=None)
        )
        assert tokenizer.encode(f"a<|reserved_{count - 1}|>") == [0, count]
        return time.perf_counter() - start

    few, many = (min(seconds(count) for _ in range(2)) for count in (5_000, 50_000))
    assert many < 40 * few


ENTRIES = st.text(st.sampled_from("ab▁é<>|0xA\n \ud800"), max_size=4)
WILD = st.one_of(
    st.none(), st.integers(-3, 9), st.text(max_size=3), st.lists(ENTRIES, max_size=6), st.floats()
)


@pytest.mark.filterwarnings("ignore:GGUF key .* passed over")
@settings(max_examples=300, deadline=None)
@given(
    base=st.sampled_from([metadata, llama]),
    changes=st.fixed_dictionaries(
        {},
        optional={
            "tokens": st.lists(ENTRIES, max_size=8),
            "merges": st.lists(st.tuples(ENTRIES, ENTRIES).map(" ".join), max_size=4),
            "token_type": st.lists(st.integers(-1, 8), max_size=8),
            "scores": st.lists(st.one_of(st.floats(), st.integers(-9, 9)), max_size=8),
            "eos_token_id": st.integers(-1, 8),
            "add_bos_token": st.booleans(),
            "pre": st.sampled_from(["qwen2", "llama-bpe", "deepseek-v3", "smollm", "x"]),
        },
    ),
    key=st.sampled_from(
        ["tokens", "merges", "token_type", "scores", "bos_token_id", "unknown_token_id", "none"]
    ),
    wild=WILD,
    text=st.text(max_size=10),
)
def test_no_vocabulary_crashes(base, changes, key, wild, text):
    with suppress(SampanError):
        tokenizer = Tokenizer.from_gguf(base(**(changes | {key: wild})))
        tokenizer.decode(tokenizer.encode(text))
        tokenizer.decode(range(tokenizer.vocab_size), skip_special=False)


@pytest.mark.parametrize(
    ("special", "ends"),
    [
        (
            ["<|endoftext|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"],
            ["<|endoftext|>", "<|im_end|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"],
        ),
        (["<fim_prefix>", "<fim_pad>", "<reponame>", "<file_sep>"], ["<fim_pad>", "<reponame>"]),
        (["<|end|>", "<|return|>", "<|call|>"], ["<|return|>", "<|call|>"]),
        (["<|end|>", "<|return|>"], ["<|end|>", "<|return|>"]),
        (["</s>", "<turn|>", "<|tool_response>"], ["<turn|>", "<|tool_response>"]),
    ],
)
def test_generation_ends_where_llama_cpp_ends_it(special, ends):
    """As `llama_vocab::impl::load` of llama.cpp finds them, by their texts."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *special]
    tokenizer = Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "qwen2",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [1] * len(letters) + [3] * len(special),
            "tokenizer.ggml.merges": [],
        }
    )
    assert {tokens[token] for token in tokenizer.eos_ids} == set(ends)


def test_tokens_of_code_models_end_generation_where_the_file_names_them():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "qwen2",
            "tokenizer.ggml.tokens": [*letters, "<x>", "<y>", "<z>"],
            "tokenizer.ggml.token_type": [1] * len(letters) + [3] * 3,
            "tokenizer.ggml.merges": [],
            "tokenizer.ggml.fim_pad_token_id": 256,
            "tokenizer.ggml.fim_rep_token_id": 257,
            "tokenizer.ggml.fim_sep_token_id": 258,
        }
    )
    assert tokenizer.eos_ids == {256, 257, 258}

"""A model folder: tokenizer.json is the vocabulary, its neighbours say which ids begin and end a turn."""

import json

import pytest
from transformers import PreTrainedTokenizerFast

from sampan.core.errors import TokenizerError, UnsupportedModel
from sampan.text.chat import ChatTemplate
from sampan.text.tokenizer import Tokenizer

TEXT = "The boat left the harbour, twice: 2026."


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of a family's folder, to be changed."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((trained.folder / name).read_bytes())
    return tmp_path


@pytest.fixture
def small(tmp_path):
    """A folder with nothing but a tokenizer.json of four entries."""
    write(tmp_path, "tokenizer.json", SMALL)
    return tmp_path


SMALL = {
    "added_tokens": [
        {"id": 3, "content": "<|im_end|>", "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    ],
    "pre_tokenizer": {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    },
    "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "<s>": 2}, "merges": []},
}


def write(folder, name, values):
    (folder / name).write_text(json.dumps(values), "utf-8")


def change(folder, name, **changes):
    path = folder / name
    write(folder, name, (json.loads(path.read_text("utf-8")) if path.exists() else {}) | changes)


def test_a_prompt_is_neither_cut_nor_padded(folder, trained):
    whole = Tokenizer.from_folder(folder).encode(TEXT)
    length = {"max_length": 3, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    pad = {"strategy": {"Fixed": 99}, "direction": "Left", "pad_to_multiple_of": None}
    pad |= {"pad_id": 0, "pad_type_id": 0, "pad_token": trained.eos}
    change(folder, "tokenizer.json", truncation=length, padding=pad)
    assert Tokenizer.from_folder(folder).encode(TEXT) == whole == trained.oracle.encode(TEXT)


@pytest.mark.parametrize("stated", [True, False])
def test_the_post_processor_alone_decides_about_bos(folder, trained, stated):
    change(folder, "tokenizer_config.json", add_bos_token=stated)
    oracle = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.encode(TEXT) == oracle.encode(TEXT)
    assert tokenizer.adds_bos == (trained.name in ("llama-bpe", "deepseek-r1-qwen"))


def test_every_listed_end_of_a_turn_counts(folder):
    ends = Tokenizer.from_folder(folder).eos_ids
    write(folder, "generation_config.json", {"eos_token_id": [5, 6], "bos_token_id": 4})
    write(folder, "config.json", {"eos_token_id": 7})
    assert Tokenizer.from_folder(folder).eos_ids == ends | {5, 6, 7}


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("value", ["2", 1.5, [[1]], True])
def test_what_is_no_id_is_refused(small, name, value):
    write(small, name, {"eos_token_id": value})
    with pytest.raises(TokenizerError, match=rf"{name}: field eos_token_id names .*, which is no token id"):
        Tokenizer.from_folder(small)


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
@pytest.mark.parametrize(("value", "kept"), [(10**6, []), (-1, []), ([0, 10**6], [0])])
def test_an_id_outside_the_vocabulary_is_passed_over(small, name, value, kept):
    # transformers takes them: no token has such an id, so that nothing ends by it
    write(small, name, {"eos_token_id": value})
    with pytest.warns(UserWarning, match=rf"{name}: passed over eos_token_id .*: there are 4 tokens"):
        assert Tokenizer.from_folder(small).eos_ids == {3, *kept}


def test_ids_that_only_pad_the_embedding_are_no_text(small):
    write(small, "config.json", {"vocab_size": 8})
    tokenizer = Tokenizer.from_folder(small)
    assert tokenizer.vocab_size == 8
    assert tokenizer.decode([0, 4, 7, 1]) == "ab"
    assert (tokenizer.token_text(7), tokenizer.token_bytes(7)) == ("", b"")
    with pytest.raises(TokenizerError, match="8 is outside the vocabulary of 8"):
        tokenizer.decode([8])


def test_tokenizer_json_alone_is_enough(small):
    tokenizer = Tokenizer.from_folder(small)
    assert tokenizer.encode("ab<|im_end|>") == [0, 1, 3]
    assert (tokenizer.bos_id, tokenizer.bos_text, tokenizer.eos_text) == (None, "", "")
    assert tokenizer.eos_ids == {3}


def test_ids_from_config_json_serve_where_no_entry_is_named(small):
    write(small, "config.json", {"bos_token_id": 2, "eos_token_id": 1})
    tokenizer = Tokenizer.from_folder(small)
    assert (tokenizer.bos_id, tokenizer.bos_text, tokenizer.eos_text) == (2, "<s>", "b")
    write(small, "tokenizer_config.json", {"bos_token": None, "eos_token": {"content": "<|im_end|>"}})
    tokenizer = Tokenizer.from_folder(small)
    assert (tokenizer.bos_id, tokenizer.eos_text, tokenizer.eos_ids) == (None, "<|im_end|>", {1, 3})


def test_a_named_entry_is_special_even_if_it_is_not_listed_as_added(small):
    write(small, "tokenizer_config.json", {"bos_token": "<s>", "pad_token": "<nowhere>"})
    tokenizer = Tokenizer.from_folder(small)
    oracle = PreTrainedTokenizerFast.from_pretrained(small)
    assert tokenizer.encode("a<s>b") == oracle.encode("a<s>b") == [0, 2, 1]
    assert tokenizer.decode([0, 2, 1]) == oracle.decode([0, 2, 1], skip_special_tokens=True) == "ab"
    assert tokenizer.vocab_size == 4


FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)


def agree(folder, text):
    """Our ids of a text, which are transformers'; so is what decoding shows."""
    oracle, tokenizer = PreTrainedTokenizerFast.from_pretrained(folder), Tokenizer.from_folder(folder)
    ids = tokenizer.encode(text)
    assert ids == oracle.encode(text)
    assert tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=True)
    return ids


def test_entries_added_in_tokenizer_config_alone_are_matched_whole(small):
    entries = {
        "3": {"content": "<|im_end|>", "special": True} | FLAGS,
        "4": {"content": "<|im_start|>", "special": True} | FLAGS,
        "5": {"content": "<tool>", "special": False} | FLAGS | {"lstrip": True},
        "6": {"content": "<end>", "special": False} | FLAGS,
    }
    write(small, "tokenizer_config.json", {"added_tokens_decoder": entries, "eos_token": "<end>"})
    write(small, "config.json", {"vocab_size": 8})
    assert agree(small, "<|im_start|>ab <tool>b<|im_end|>a<end>") == [4, 0, 1, 5, 1, 3, 0, 6]
    assert Tokenizer.from_folder(small).eos_ids == {3, 6}


def test_entries_of_added_tokens_json_and_of_lists_are_matched_whole(small):
    write(small, "added_tokens.json", {"<x>": 4, "<|im_start|>": 5})
    write(small, "tokenizer_config.json", {"additional_special_tokens": ["<|im_start|>", "<extra>"]})
    write(small, "config.json", {"vocab_size": 8})
    assert agree(small, "a<x>b<|im_start|><extra>b") == [0, 4, 1, 5, 6, 1]


@pytest.mark.parametrize("written", ["</s>", {"content": "</s>"} | FLAGS])
def test_entries_named_in_special_tokens_map_alone_count(small, written):
    vocab = {"a": 0, "b": 1, "<s>": 2, "<|im_end|>": 3, "</s>": 4}
    change(small, "tokenizer.json", model=SMALL["model"] | {"vocab": vocab})
    write(small, "special_tokens_map.json", {"bos_token": "<s>", "eos_token": written, "pad_token": None})
    template = "{{ bos_token }}x{{ eos_token }}"
    write(small, "tokenizer_config.json", {"eos_token": "b", "chat_template": template})
    assert agree(small, "<s>a</s>b") == [2, 0, 4, 1]
    tokenizer = Tokenizer.from_folder(small)
    assert (tokenizer.bos_text, tokenizer.eos_text, tokenizer.eos_ids) == ("<s>", "</s>", {3, 4})
    template = ChatTemplate.from_folder(small)
    assert template.render([{"role": "user", "content": "a"}]) == "<s>x</s>"


def test_an_added_entry_that_the_model_has_no_row_for_is_passed_over(small):
    entries = {"4": {"content": "<in>"} | FLAGS, "9": {"content": "<out>"} | FLAGS}
    write(small, "tokenizer_config.json", {"added_tokens_decoder": entries})
    write(small, "config.json", {"vocab_size": 5})
    with pytest.warns(UserWarning, match="passed over '<out>' has id 5, and the model 5 rows"):
        assert Tokenizer.from_folder(small).vocab_size == 5


@pytest.mark.parametrize(
    "entries", [[], {"x": {"content": "a"}}, {"4": {}}, {"4": "a"}, {"4": {"content": 1}}]
)
def test_damaged_added_entries_are_refused(small, entries):
    write(small, "tokenizer_config.json", {"added_tokens_decoder": entries})
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json: the added tokens cannot be read"):
        Tokenizer.from_folder(small)


def test_plain_text_tokens_outside_ascii_are_shown_as_they_are(small):
    # the tokenizers library takes such a token's characters for bytes and shows U+FFFD
    token = SMALL["added_tokens"][0] | {"content": "<é>", "special": False}
    change(small, "tokenizer.json", added_tokens=[token])
    tokenizer = Tokenizer.from_folder(small)
    assert tokenizer.decode(tokenizer.encode("a<é>b")) == "a<é>b"


@pytest.mark.parametrize(
    ("decoder", "name"),
    [
        (None, "empty"),
        ({"type": "WordPiece", "prefix": "##", "cleanup": True}, "WordPiece"),
        (
            {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
            r"ByteFallback \+ Fuse",
        ),
        ({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}, "Metaspace"),
    ],
)
def test_without_a_decoder_that_is_known_ids_are_ids_and_no_text(small, decoder, name):
    change(small, "tokenizer.json", decoder=decoder)
    tokenizer = Tokenizer.from_folder(small)
    assert tokenizer.encode("ab<|im_end|>") == [0, 1, 3]
    with pytest.raises(UnsupportedModel, match=f"decoder is {name}, so that tokens cannot be read as text"):
        tokenizer.decode([0])


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}', "\x00\xff"],
)
def test_a_damaged_tokenizer_json_is_refused(small, text):
    (small / "tokenizer.json").write_text(text, "utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json cannot be used") as caught:
        Tokenizer.from_folder(small)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json", "config.json"])
@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_a_damaged_neighbour_is_named(small, name, content):
    (small / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=name):
        Tokenizer.from_folder(small)


def test_a_missing_vocabulary_is_named(tmp_path):
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is missing, and so are tokenizer\.model, and"):
        Tokenizer.from_folder(tmp_path)


def test_a_pattern_that_explodes_is_an_error_and_no_crash(small):
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    steps = [split, SMALL["pre_tokenizer"] | {"use_regex": False}]
    change(small, "tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": steps})
    tokenizer = Tokenizer.from_folder(small)
    assert tokenizer.encode("aab") == [0, 0, 1]
    with pytest.raises(TokenizerError, match="cannot be encoded"):
        tokenizer.encode("a" * 40 + "b")

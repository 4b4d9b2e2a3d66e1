"""A unigram `tokenizer.model` is encoded as by SentencePiece itself, which trains it here."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sentencepiece
from sampan.core.errors import TokenizerError, UnsupportedModel
from sampan.core.types import Grammar
from sampan.text.grammar.compiler import GrammarCompiler
from sampan.text.tokenizer import Tokenizer
from sampan.text.vocab.folder_parts import metadata_of

HARD = [
    "",
    " ",
    "  ",
    "▁",
    "▁▁",
    " a",
    "a ",
    "a  b",
    "  two  spaces  ",
    "a▁▁b ▁",
    "<s>",
    "</s> x",
    "<unk>",
    "<0x41>",
    "a<0x0A>b",
    "<sep>",
    "a <sep>b<sep><sep> c",
    "日本 naïve\n\n\tend",
    "\r\n 👩‍👩‍👧",
    "\u00a0x\u3000y\u2009",
    "ＡＢＣ ﬁ ① ½",
    "\u2126 ª Ǆ ㌀",
    "\u0378\u0379 z",
    "<",
    "<0",
    "<sep",
    "The boat crossed the harbour.",
]
FORMS: dict[str, dict[str, Any]] = {
    "as Llama's": {
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "byte_fallback": True,
    },
    "as T5's": {"normalization_rule_name": "nmt_nfkc"},
    "folded": {"normalization_rule_name": "nfkc_cf", "byte_fallback": True, "add_dummy_prefix": False},
    "without a prefix": {
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
    },
}


@pytest.fixture(scope="module", params=FORMS)
def trained(
    request: pytest.FixtureRequest, corpus: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    """A folder with nothing but a `tokenizer.model`, and SentencePiece's reading of it."""
    made = io.BytesIO()
    lines = [line for text in corpus for line in text.splitlines() if line.strip()]
    how = {"model_type": "unigram", "vocab_size": 1800, "character_coverage": 0.98} | FORMS[request.param]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=made, user_defined_symbols=["<sep>", "harbour"],
        control_symbols=["<|end|>"], hard_vocab_limit=False, minloglevel=2, num_threads=1, **how,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("unigram")
    (folder / "tokenizer.model").write_bytes(made.getvalue())
    return folder, sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())


def plain(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_bos=False, special=False)


def test_texts_are_encoded_as_by_sentencepiece(trained: Any, corpus: list[str]) -> None:
    tokenizer, oracle = Tokenizer.from_folder(trained[0]), trained[1]
    for text in [*corpus, *HARD]:
        assert plain(tokenizer, text) == oracle.encode(text), text
    assert tokenizer.vocab_size == oracle.get_piece_size()


def test_a_unigram_vocabulary_is_read_from_gguf_too(trained: Any, corpus: list[str]) -> None:
    folder = Tokenizer.from_folder(trained[0])
    tokenizer = Tokenizer.from_gguf(metadata_of(trained[0], {}))
    for text in corpus[:20]:
        ids = tokenizer.encode(text)
        assert ids == folder.encode(text)
        if trained[1].unk_id() not in ids:  # which SentencePiece writes as a sign of its own
            assert tokenizer.decode(ids) == trained[1].decode(ids[1:])


def test_control_tokens_are_found_and_hidden(trained: Any) -> None:
    tokenizer, oracle = Tokenizer.from_folder(trained[0]), trained[1]
    end = oracle.piece_to_id("<|end|>")
    ids = tokenizer.encode("The boat<|end|>")
    assert ids == [1, *oracle.encode("The boat"), end]
    assert tokenizer.decode(ids) == oracle.decode(oracle.encode("The boat"))
    assert {0, 1, 2, end} == tokenizer.special_ids
    assert (tokenizer.bos_text, tokenizer.eos_text) == ("<s>", "</s>")


def test_answers_can_be_held_to_a_grammar(trained: Any) -> None:
    tokenizer = Tokenizer.from_folder(trained[0])
    constraint = GrammarCompiler(tokenizer).compile(Grammar("choice", '["crossed the bay", "no"]'))
    constraint.continues = True
    ids = []
    while not constraint.done and len(ids) < 20:
        mask = constraint.allowed()
        assert mask is not None
        allowed = [t for t in range(tokenizer.vocab_size) if mask[t >> 3] >> (t & 7) & 1]
        ids.append(next((t for t in reversed(allowed) if tokenizer.token_bytes(t)[:1] == b"c"), allowed[-1]))
        constraint.accept(ids[-1])
    assert tokenizer.decode(ids, continues=True) in ("crossed the bay", "no")


def test_t5s_class_closes_texts_and_begins_none(trained: Any, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((trained[0] / "tokenizer.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.encode("a", closed=True) == [*trained[1].encode("a"), 2]


# Letters with marks behind them aside, which the two read in different ways where there is a table.
TEXTS = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=("Cs", "Mn", "Mc", "Me", "Cf")), max_size=6),
        st.sampled_from([*HARD, "boat", "crossed ", "ing", "harbour", "<|end|>"]),
    ),
    max_size=6,
).map("".join)


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_any_text_is_encoded_as_by_sentencepiece(trained: Any, text: str) -> None:
    assert plain(_read(trained[0]), text) == trained[1].encode(text)


def _read(folder: Path, known: dict[Path, Tokenizer] = {}) -> Tokenizer:  # noqa: B006 - it is the memory
    if folder not in known:
        known[folder] = Tokenizer.from_folder(folder)
    return known[folder]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"model_type": "word"}, "model_type word is not supported: bpe and unigram are"),
        ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix is not supported"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path: Path, how: dict[str, Any], message: str) -> None:
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f g"] * 9), model_writer=made, vocab_size=12, minloglevel=2,
        hard_vocab_limit=False, num_threads=1, **how,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(made.getvalue())
    with pytest.raises(UnsupportedModel, match=message):
        Tokenizer.from_folder(tmp_path)


def test_a_damaged_table_of_characters_is_refused() -> None:
    values = {"model": "t5", "tokens": ["<unk>", "a"], "scores": [0.0, -1.0], "token_type": [2, 1]}
    keys = {f"tokenizer.ggml.{key}": value for key, value in values.items()}
    for table, message in (
        ([300], "not an array of bytes"),
        ([9, 9, 9], "precompiled_charsmap cannot be used"),
    ):
        with pytest.raises(TokenizerError, match=message):
            Tokenizer.from_gguf(keys | {"tokenizer.ggml.precompiled_charsmap": table})

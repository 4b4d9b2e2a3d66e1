"""Small tokenizers in the exact published form of each family, as a model folder and as a GGUF file.

`published.json` holds the pipelines of the families' tokenizer.json files; the vocabularies are trained
here on `corpus.txt`. Both forms are written with the tools of their own formats.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sampan.models.registry import load_file
from sampan.weights.gguf import read_gguf

HERE = Path(__file__).parent
PUBLISHED: dict[str, dict[str, Any]] = json.loads((HERE / "published.json").read_text("utf-8"))


@pytest.fixture(scope="session")
def schemas() -> Any:
    """`schema_bytes.py`: schemas over a vocabulary of single bytes."""
    return load_file(HERE / "schema_bytes.py")


ODD_SPACES = [
    "",
    " ",
    "   ",
    "\t",
    "\n",
    "\n\n\n\n\n",
    "\r\n\r\nwindows\r\nlines\r\n",
    "old\rmac\rlines\r",
    "tab\tand \t mixed  \t\t  run\t\n \n\t\n",
    "  two leading, two trailing  ",
    "\u00a0nbsp\u00a0between\u00a0\u00a0words\u00a0",
    "thin\u2009hair\u200aem\u2003ideographic\u3000zero\u200bwidth\u2060joiner\ufeffbom",
    "line\u2028separator\u2029paragraph\x85next\x0bvertical\x0cfeed",
    "indent\n    four\n        eight\n\tone tab\n\t\ttwo\n" + " " * 40 + "far",
    "a" + " " * 200 + "b" + "\n" * 150 + "c" + "\t" * 90,
    "control \x00 \x01 \x1b[31m \x7f end",
]


@dataclass(frozen=True)
class Trained:
    """One family's tokenizer: its folder, its GGUF metadata and transformers' reading of the folder."""

    name: str
    folder: Path
    metadata: Mapping[str, object]
    oracle: PreTrainedTokenizerFast
    special: list[str]
    visible: list[str]
    eos: str


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    """Texts in code, thirty scripts, emoji, odd white space, numbers of every length, contractions."""
    return (HERE / "corpus.txt").read_text("utf-8").split("%%\n") + ODD_SPACES


@pytest.fixture(scope="session", params=sorted(PUBLISHED))
def trained(
    request: pytest.FixtureRequest, corpus: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """Every family in turn."""
    name = request.param
    form = PUBLISHED[name]
    folder = tmp_path_factory.mktemp(name)
    tokenizer = _train(form, corpus)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": form["bos"],
        "eos_token": form["eos"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False), "utf-8")
    metadata = read_gguf(_write_gguf(folder / "model.gguf", name, form, tokenizer)).metadata
    oracle = PreTrainedTokenizerFast.from_pretrained(folder)
    return Trained(name, folder, metadata, oracle, form["special"], form["visible"], form["eos"])


@pytest.fixture(scope="session")
def llama(sentencepiece: Any, corpus: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A SentencePiece vocabulary in GGUF and in a folder, with transformers' reading of the folder."""
    return sentencepiece.write(tmp_path_factory.mktemp("llama"), corpus)


def _train(form: dict[str, Any], corpus: list[str]) -> dict[str, Any]:
    """A tokenizer.json of this form with 5,000 entries, some of which no merge leads to.

    The merges are learned from uncut text and so cross every boundary: each cut shows in the ids.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=5000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    written = json.loads(tokenizer.to_str()) | {name: form[name] for name in ("normalizer", "pre_tokenizer")}
    vocab = written["model"]["vocab"]
    for word in ("Ġharbour", "Ġspoken"):
        vocab.setdefault(word, len(vocab))
    written["model"]["ignore_merges"] = form["ignore_merges"]
    written["decoder"] = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": True,
        "use_regex": True,
    }
    tokenizer = Tokenizer.from_str(json.dumps(written))
    for special, texts in ((True, form["special"]), (False, form["visible"])):
        tokenizer.add_tokens([AddedToken(text, special=special, normalized=False) for text in texts])
    written = json.loads(tokenizer.to_str())
    written["post_processor"] = form["post_processor"]
    if form["post_processor"] == "bos":
        written["post_processor"] = _bos_first(form["bos"], tokenizer.token_to_id(form["bos"]))
    return written


def _bos_first(bos: str, token: int) -> dict[str, Any]:
    """The post-processor that Llama 3 and DeepSeek-R1's distilled models publish."""
    first, text = {"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text],
        "special_tokens": {bos: {"id": bos, "ids": [token], "tokens": [bos]}},
    }
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    return {"type": "Sequence", "processors": [byte_level, template]}


def _write_gguf(path: Path, name: str, form: dict[str, Any], tokenizer: dict[str, Any]) -> Path:
    """What llama.cpp's converter writes for this tokenizer.json, written with the gguf package."""
    entries = {token: text for text, token in tokenizer["model"]["vocab"].items()}
    types = dict.fromkeys(entries, gguf.TokenType.NORMAL)
    for added in tokenizer["added_tokens"]:
        entries[added["id"]] = added["content"]
        types[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    ids = {text: token for token, text in entries.items()}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list([entries[token] for token in sorted(entries)])
    writer.add_token_types([types[token] for token in sorted(entries)])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    if form["bos"] is not None:
        writer.add_bos_token_id(ids[form["bos"]])
    writer.add_eos_token_id(ids[form["eos"]])
    writer.add_add_bos_token(form["add_bos"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

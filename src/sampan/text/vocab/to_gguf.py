"""The tokenizer and the chat templates of a model folder as GGUF keys: the way back from `text/export.py`.

A folder does not name the way in which it cuts texts, and GGUF has nothing but names: the name is that of
the known way that cuts probing texts alike (llama.cpp's converter compares hashes of such). What is found is
read back and compared, token for token; a tokenizer that GGUF cannot tell is refused.
"""

import json
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.core.errors import UnsupportedModel
from sampan.text.chat import ChatTemplate
from sampan.text.tokenizer import Tokenizer
from sampan.text.vocab.folder import read_folder
from sampan.text.vocab.folder_config import special_text, tokenizer_config
from sampan.text.vocab.pretokenizers import Pipeline, pipeline
from sampan.text.vocab.vocabulary import Vocabulary, is_byte

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_WAYS = ("gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "qwen35", "deepseek-v3")
_PROBES = (
    "Hello, world! I'm sure we'LL see: don't they've 1234567890 3.14 a1b22c333",
    "  two  spaces\n\nlines \t\ttabs \r\n  end   \n x",
    "Größe naïve Résumé e\u0301\u0323 Ω \u212b हिन्दी नमस्ते 日本語テスト한국어 русский",
    "שלום \U0001f600\U0001f468\u200d\U0001f469 สวัสดี",
    'x=y+z; foo_bar(baz)[0] != `q` && "s" -> #!$%&*/:<=>?@^|~{} .A ,b !word -word',
    "\u00a0nbsp\u3000wide ١٢٣ ½ x² 中文123混合abc。」",
)


def gguf_keys(folder: Path, rows: int) -> dict[str, object]:
    """`tokenizer.*` of a folder whose model has so many rows. Raises what `Tokenizer.from_folder` raises, and
    `UnsupportedModel` for a tokenizer that has no form in GGUF."""
    vocabulary = read_folder(folder)
    model = json.loads(vocabulary.backend.to_str())["model"]
    if model["type"] != "BPE" or vocabulary.spelling.unknown:
        raise UnsupportedModel(f"{folder}: a tokenizer of kind {model['type'][:40]} is not written to GGUF")
    tokens, types = _entries(vocabulary, rows, folder)
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    keys: dict[str, object]
    if vocabulary.spelling.byte_level:
        keys = {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": _way(vocabulary.backend, bool(model.get("ignore_merges")), folder),
            "tokenizer.ggml.merges": [" ".join(pair) for pair in pairs],
        }
    else:
        keys = {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.scores": _scores(tokens, pairs),
            "tokenizer.ggml.add_space_prefix": vocabulary.spelling.strip_left > 0,
        }
    keys |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": array("i", types)}
    keys |= _ids(vocabulary, folder) | _templates(folder)
    _check(keys, vocabulary, folder)
    return keys


def _entries(vocabulary: Vocabulary, rows: int, folder: Path) -> tuple[list[str], list[int]]:
    """Entries by id, one for each row, and their llama.cpp types."""
    backend = vocabulary.backend
    texts = {token: text for text, token in backend.get_vocab(with_added_tokens=True).items()}
    if max(texts) >= rows:
        raise UnsupportedModel(
            f"{folder}: its tokenizer has an entry {max(texts)}, and the model {rows} rows"
        )
    added = backend.get_added_tokens_decoder()
    unknown = json.loads(backend.to_str())["model"].get("unk_token")

    def kind(token: int) -> int:
        if token in added:
            special = added[token].special
            return _UNKNOWN if texts[token] == unknown else _CONTROL if special else _USER_DEFINED
        if token not in texts:
            return _UNUSED
        if not vocabulary.spelling.byte_level and is_byte(texts[token]):
            return _BYTE
        return _UNKNOWN if texts[token] == unknown else _NORMAL

    tokens = [texts.get(token, f"[PAD{token}]") for token in range(rows)]
    return tokens, [kind(token) for token in range(rows)]


def _way(backend: "Backend", ignore_merges: bool, folder: Path) -> str:
    """The name of the known way that cuts texts as this tokenizer does."""
    own = _cut(backend)
    for name in _WAYS:
        way = pipeline(name)
        if way.ignore_merges == ignore_merges and _cut(_with(way)) == own:
            return name
    raise UnsupportedModel(
        f"{folder}: its tokenizer cuts texts in none of the ways that are known here by their names in GGUF: "
        f"{', '.join(_WAYS)}"
    )


def _with(way: Pipeline) -> "Backend":
    from tokenizers import Tokenizer, models

    backend = Tokenizer(models.BPE())
    way.install(backend)
    return backend


def _cut(backend: "Backend") -> list[list[str]]:
    """The pieces of the probing texts."""
    found = []
    for text in _PROBES:
        text = backend.normalizer.normalize_str(text) if backend.normalizer else text
        cut = backend.pre_tokenizer
        found.append([piece for piece, _ in cut.pre_tokenize_str(text)] if cut else [text])
    return found


def _scores(tokens: list[str], pairs: list[Any]) -> "array[float]":
    """Of a SentencePiece vocabulary: entries that are merged earlier have higher ones."""
    rank: dict[str, int] = {}
    for place, (left, right) in enumerate(pairs):
        rank.setdefault(left + right, place)
    return array("f", [-float(rank.get(token, len(pairs))) for token in tokens])


def _ids(vocabulary: Vocabulary, folder: Path) -> dict[str, object]:
    config = tokenizer_config(folder)
    named: dict[str, int | None] = {"bos": vocabulary.bos_id, "eos": vocabulary.eos_id}
    for name, field in (("unknown", "unk_token"), ("padding", "pad_token")):
        text = special_text(config, field)
        named[name] = None if text is None else vocabulary.backend.token_to_id(text)
    others = sorted(vocabulary.eos_ids - {vocabulary.eos_id})
    named |= dict(zip(("eot", "eom"), others, strict=False))
    ids = {f"tokenizer.ggml.{name}_token_id": token for name, token in named.items() if token is not None}
    return {**ids, "tokenizer.ggml.add_bos_token": vocabulary.adds_bos}


def _templates(folder: Path) -> dict[str, object]:
    template = ChatTemplate.from_folder(folder)
    if template is None:
        return {}
    return {
        "tokenizer.chat_template" + ("" if name == "default" else f".{name}"): source
        for name, source in template.sources.items()
    }


def _check(keys: Mapping[str, object], own: Vocabulary, folder: Path) -> None:
    """That the keys are read as the same tokenizer."""
    before, after = Tokenizer(own), Tokenizer.from_gguf(keys)
    lost = [
        name
        for name in ("bos_id", "bos_text", "eos_text", "adds_bos")
        if getattr(before, name) != getattr(after, name)
    ]
    lost += [] if before.eos_ids <= after.eos_ids else ["entries that end a turn"]
    added = [token.content for token in own.backend.get_added_tokens_decoder().values()]
    texts = [*_PROBES, " ".join(added), "x".join(added)]
    if any(before.encode(text) != after.encode(text) for text in texts):
        lost.append("ids of texts")
    if lost:
        raise UnsupportedModel(f"{folder}: its tokenizer has no form in GGUF: {', '.join(lost)} would differ")

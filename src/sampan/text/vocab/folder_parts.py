"""The vocabulary of a folder without `tokenizer.json`, as GGUF metadata: from `tokenizer.model`, or from
`vocab.json` and `merges.txt`, the forms that a tokenizer was published in before."""

from pathlib import Path
from typing import Any

from sampan.core.errors import TokenizerError, UnsupportedModel, quoted
from sampan.text.vocab.folder_config import read_json, stated_tokens
from sampan.text.vocab.pretokenizers import told_by
from sampan.text.vocab.sentencepiece import read_sentencepiece

_NORMAL = 1
_CLASSES = {"Qwen2Tokenizer": "qwen2", "GPT2Tokenizer": "gpt-2"}
_MODEL_TYPES = {
    "qwen2": "qwen2",
    "qwen2_moe": "qwen2",
    "qwen3": "qwen2",
    "qwen3_moe": "qwen2",
    "gpt2": "gpt-2",
}


def metadata_of(folder: Path, config: dict[str, Any]) -> dict[str, object]:
    """`tokenizer.ggml.*`; `TokenizerError` where a file is missing or damaged, `UnsupportedModel` where
    nothing says how texts are cut."""
    if (folder / "tokenizer.model").is_file():
        found = read_sentencepiece(folder / "tokenizer.model")
        if config.get("add_prefix_space") is False:
            found["tokenizer.ggml.add_space_prefix"] = False
        if str(config.get("tokenizer_class")).removesuffix("Fast") == "T5Tokenizer":
            found |= {"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": True}
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        found = _byte_level(folder, config)
    else:
        raise TokenizerError(
            f"{folder / 'tokenizer.json'} is missing, and so are tokenizer.model, and vocab.json with "
            "merges.txt: fetch the whole model"
        )
    flags = {f"tokenizer.ggml.{name}": config.get(name) for name in ("add_bos_token", "add_eos_token")}
    return found | {key: flag for key, flag in flags.items() if isinstance(flag, bool)}


def _byte_level(folder: Path, config: dict[str, Any]) -> dict[str, object]:
    path = folder / "vocab.json"
    vocab = read_json(path)
    size = max((token for token in vocab.values() if isinstance(token, int)), default=-1) + 1
    if not vocab or size > 2 * len(vocab) or not _are_ids(vocab):
        raise TokenizerError(f"{path}: should give each entry an id of its own: fetch it again")
    entries = {token: text for text, token in vocab.items()}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _family(folder, config, vocab),
        "tokenizer.ggml.tokens": [entries.get(token, f"[EMPTY_{token}]") for token in range(size)],
        "tokenizer.ggml.token_type": [_NORMAL] * size,
        "tokenizer.ggml.merges": _merges(folder / "merges.txt"),
    }


def _are_ids(vocab: dict[str, Any]) -> bool:
    ids = list(vocab.values())
    return all(type(token) is int and token >= 0 for token in ids) and len(set(ids)) == len(ids)


def _family(folder: Path, config: dict[str, Any], vocab: dict[str, int]) -> str:
    """Whose way of cutting texts it is: by the entries, by the tokenizer's class, by the model's type."""
    stated = {entry.content: token for token, entry in stated_tokens(folder, config)}
    name = str(config.get("tokenizer_class")).removesuffix("Fast")
    kind = str(read_json(folder / "config.json").get("model_type"))
    found = told_by(vocab | stated) or _CLASSES.get(name) or _MODEL_TYPES.get(kind)
    if found is None:
        raise UnsupportedModel(
            f"{folder}: neither its entries nor tokenizer_class {quoted(name)} nor model_type {quoted(kind)} "
            "tell how texts are cut: convert vocab.json and merges.txt to tokenizer.json"
        )
    return found


def _merges(path: Path) -> list[str]:
    """The lines but the first, which gives a version."""
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}; fetch it again") from error
    return [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]

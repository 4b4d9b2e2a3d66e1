"""What the files beside a folder's vocabulary say of its entries, as transformers reads them.

`tokenizer_config.json` comes first; `special_tokens_map.json` names what it leaves out, and where it has no
`added_tokens_decoder` overrides it, with the entries of `added_tokens.json` (transformers,
tokenization_utils_base.py, `_from_pretrained`).
"""

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.core.errors import TokenizerError, quoted

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

_CONFIG, _MAP, _ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
_NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty where the file is missing; `TokenizerError` if it is no object."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}; fetch it again") from error
    if not isinstance(values, dict):
        raise TokenizerError(f"{path} holds no JSON object: fetch it again")
    return values


def tokenizer_config(folder: Path) -> dict[str, Any]:
    """`tokenizer_config.json` with what `special_tokens_map.json` adds to it."""
    config, named = read_json(folder / _CONFIG), read_json(folder / _MAP)
    named = {name: value for name, value in named.items() if value is not None}
    return named | config if "added_tokens_decoder" in config else config | named


def special_text(config: dict[str, Any], name: str) -> str | None:
    """A special entry that the configuration names, as a string or as `{"content": ...}`."""
    return _content(config.get(name))


def add_tokens(
    backend: "Backend", folder: Path, config: dict[str, Any], rows: int, *, normalized: bool
) -> None:
    """Add what is matched whole and stands only beside the vocabulary, in transformers' order.

    `rows`: how many ids the model has, 0 where nothing says so; entries beyond are passed over. An id that
    cannot be had is told: the vocabulary gives a new entry the next one. Not `normalized`: entries are
    matched in texts as they are, before a space is put before these.
    """
    from tokenizers import AddedToken

    named, listed = _special_texts(config)
    stated = stated_tokens(folder, config)
    added = backend.get_added_tokens_decoder()
    texts = {entry.content for entry in added.values() if entry.special or entry.content not in named}
    texts |= {entry.content for _, entry in stated}
    stated += [(-1, AddedToken(text, special=True)) for text in named + listed if text not in texts]
    after = max(backend.get_vocab_size(with_added_tokens=False), *(token + 1 for token in added), 0)
    chosen = []
    for token, entry in stated:
        known = backend.token_to_id(entry.content)
        place = after if known is None else known
        if token < 0 and known is None and place >= rows:
            continue  # named and in no vocabulary: this model has no such entry
        if rows and place >= rows:
            _tell(folder, f"{quoted(entry.content)} has id {place}, and the model {rows} rows")
            continue
        if token not in (place, -1):
            _tell(folder, f"the id {token} of {quoted(entry.content)}: the vocabulary has it at {place}")
        chosen.append(entry if normalized else _unnormalized(entry))
        after += known is None
    backend.add_tokens(chosen)


def stated_tokens(folder: Path, config: dict[str, Any]) -> "list[tuple[int, AddedToken]]":
    """The added entries with the ids that the files give them, in the order of these."""
    from tokenizers import AddedToken

    named, listed = _special_texts(config)
    given = config.get("added_tokens_decoder")
    path = folder / (_ADDED if given is None else _CONFIG)
    found: list[tuple[int, AddedToken]] = []
    try:
        if given is None:
            for text, token in read_json(path).items():
                found.append((int(token), AddedToken(text, special=text in named + listed)))
        else:
            for token, entry in given.items():
                flags = {flag: bool(entry[flag]) for flag in _FLAGS if flag in entry}
                flags["special"] = flags.get("special", False) or entry["content"] in named
                found.append((int(token), AddedToken(entry["content"], **flags)))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise TokenizerError(f"{path}: the added tokens cannot be read ({error}); fetch it again") from error
    return sorted((pair for pair in found if pair[1].content), key=lambda pair: pair[0])


def _unnormalized(entry: "AddedToken") -> "AddedToken":
    from tokenizers import AddedToken

    flags = {flag: getattr(entry, flag) for flag in _FLAGS}
    return AddedToken(entry.content, **(flags | {"normalized": False}))


def _special_texts(config: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The entries that the configuration calls special: those with a name of their own, and the lists."""
    names = [name for name in config if name.endswith("_token") and name not in _NAMES]
    named = [config.get(name) for name in (*_NAMES, *names)]
    listed: list[object] = []
    for name in _LISTS:
        values = config.get(name)
        if isinstance(values, dict):
            named += values.values()
        listed += values if isinstance(values, list) else []
    return _texts(named), _texts(listed)


def _texts(values: Iterable[object]) -> list[str]:
    return list(dict.fromkeys(text for text in map(_content, values) if text is not None))


def _content(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _tell(folder: Path, what: str) -> None:
    warnings.warn(f"{folder}: passed over {what}", stacklevel=2)

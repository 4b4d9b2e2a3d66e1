"""Reads a vocabulary from a model folder.

`tokenizer.json` is the vocabulary, or what it is made from (`folder_parts.py`); `tokenizer_config.json` and
its neighbours name special entries and those that were added (`folder_config.py`); `generation_config.json`
and `config.json` list the ids that end a turn.
"""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.core.errors import TokenizerError, quoted
from sampan.text.vocab.folder_config import add_tokens, read_json, special_text, tokenizer_config
from sampan.text.vocab.folder_parts import metadata_of
from sampan.text.vocab.gguf import read_gguf
from sampan.text.vocab.vocabulary import TURN_ENDS, Vocabulary, backend_errors, spelling_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


def read_folder(folder: Path) -> Vocabulary:
    """The vocabulary of a folder.

    Raises `TokenizerError` for missing or damaged files or ids that are none, `UnsupportedModel` for a kind
    of tokenizer that is not implemented.
    """
    config = tokenizer_config(folder)
    whole = (folder / "tokenizer.json").is_file()
    base = _read_whole(folder) if whole else read_gguf(metadata_of(folder, config))
    backend = base.backend
    sources = [folder / "generation_config.json", folder / "config.json"]
    defaults = {path: read_json(path) for path in sources}
    rows = _rows(defaults[sources[1]])
    with backend_errors(f"{folder}: added tokens cannot be used"):
        add_tokens(backend, folder, config, rows, normalized=not base.spelling.strip_left or whole)
    size = _size(backend, rows)

    def listed(name: str) -> list[int]:
        return [token for path in sources for token in _ids(path, defaults[path], f"{name}_id", size)]

    stops = listed("eos_token")
    bos = _named_id(backend, config, "bos_token", [*listed("bos_token"), *_maybe(base.bos_id)])
    eos = _named_id(backend, config, "eos_token", [*stops, *_maybe(base.eos_id)])
    ends = {*stops, *_turn_ends(backend), *_maybe(eos)}
    return replace(
        base,
        size=size,
        bos_id=bos,
        eos_id=eos,
        eos_ids=frozenset(ends),
        adds_bos=bos is not None and (base.adds_bos or _adds_bos(backend, bos)),
        closing=base.closing or _closing(backend),
    )


def _read_whole(folder: Path) -> Vocabulary:
    """What tokenizer.json says, without its neighbours."""
    backend = _read_backend(folder / "tokenizer.json")
    spelling = spelling_of(_decoder(backend))
    return Vocabulary(backend, spelling, 0, None, None, frozenset(), adds_bos=False)


def _maybe(token: int | None) -> list[int]:
    return [] if token is None else [token]


def _read_backend(path: Path) -> "Backend":
    from tokenizers import Tokenizer

    with backend_errors(f"{path} cannot be used"):
        backend = Tokenizer.from_file(str(path))
    # Whatever a training script left in the file, a prompt is neither cut nor padded.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _decoder(backend: "Backend") -> dict[str, Any] | None:
    decoder = backend.decoder
    return None if decoder is None else json.loads(decoder.__getstate__())


def _rows(model: dict[str, Any]) -> int:
    """The rows of the embedding, 0 where config.json does not say."""
    rows = model.get("vocab_size")
    return rows if isinstance(rows, int) else 0


def _size(backend: "Backend", rows: int) -> int:
    """Every id the model may produce, the rows that only pad its embedding included."""
    known = max([-1, *backend.get_added_tokens_decoder()]) + 1
    return max(backend.get_vocab_size(), known, rows)


def _ids(path: Path, values: dict[str, Any], name: str, size: int) -> list[int]:
    """One id, a list of ids or nothing, as the configuration files allow; ids that no token has are told."""
    value = values.get(name)
    tokens = value if isinstance(value, list) else [] if value is None else [value]
    for token in tokens:
        if not isinstance(token, int) or isinstance(token, bool):
            raise TokenizerError(f"{path}: field {name} names {quoted(token)}, which is no token id")
        if not 0 <= token < size:
            warnings.warn(f"{path}: passed over {name} {token}: there are {size} tokens", stacklevel=2)
    return [token for token in tokens if 0 <= token < size]


def _named_id(backend: "Backend", config: dict[str, Any], name: str, listed: list[int]) -> int | None:
    """The id of the entry that the configuration names; ids listed elsewhere only if it has no opinion."""
    if name not in config:
        return next(iter(listed), None)
    text = special_text(config, name)
    return None if text is None else backend.token_to_id(text)


def _turn_ends(backend: "Backend") -> list[int]:
    return [
        token for token, added in backend.get_added_tokens_decoder().items() if added.content in TURN_ENDS
    ]


def _closing(backend: "Backend") -> tuple[int, ...]:
    """What the post-processor puts behind a text."""
    with backend_errors("tokenizer.json cannot encode"):
        whole, text = backend.encode("a"), backend.encode("a", add_special_tokens=False)
    if 0 not in whole.special_tokens_mask:
        return ()
    return tuple(whole.ids[whole.special_tokens_mask.index(0) + len(text.ids) :])


def _adds_bos(backend: "Backend", bos: int) -> bool:
    """What the post-processor does: beside a tokenizer.json, `add_bos_token` has no say."""
    with backend_errors("tokenizer.json cannot encode"):
        return backend.encode("a").ids[:1] == [bos]

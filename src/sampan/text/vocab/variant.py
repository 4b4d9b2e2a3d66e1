"""A tokenizer that reads texts in another way, over the same vocabulary, which is not copied."""

import json
from typing import TYPE_CHECKING, Any

from sampan.text.vocab.vocabulary import backend_errors

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

_EMPTY: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "post_processor": None,
    "decoder": None,
    "model": {"type": "BPE", "vocab": {}, "merges": []},
}
_NOBODYS = "\U0010fffd"
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


class Variant:
    """`mark`: control tokens are found where it stands before them, and are text elsewhere. `exact`: nothing
    is normalised, and no space is put before a text."""

    def __init__(self, backend: "Backend", *, mark: str, exact: bool = False) -> None:
        from tokenizers import AddedToken, Tokenizer

        normalizer, cut = _state(backend.normalizer), _state(backend.pre_tokenizer)
        if exact:
            normalizer, cut = _spaces_only(normalizer), _without_prefix(cut)
        empty = _EMPTY | {"normalizer": normalizer, "pre_tokenizer": cut}
        self._backend = Tokenizer.from_str(json.dumps(empty))
        self._backend.model = backend.model
        self._ids: dict[int, list[int]] = {}
        unknown = _unknown(backend.model)
        for token, added in sorted(backend.get_added_tokens_decoder().items()):
            text = mark + added.content if added.special else added.content
            flags = {name: getattr(added, name) for name in ("single_word", "lstrip", "rstrip", "normalized")}
            self._backend.add_tokens([AddedToken(text, special=added.special, **flags)])
            own = self._backend.token_to_id(text)
            if own is not None and own != token:
                self._ids[own] = [token]
            known = backend.model.token_to_id(added.content) == token
            if mark and added.special and known and token not in unknown:
                self._ids[token] = self._apart(added.content)

    def encode(self, text: str) -> list[int]:
        """The ids of a text; `TokenizerError` for one that is not Unicode."""
        with backend_errors("this text cannot be encoded"):
            ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return [own for token in ids for own in self._ids.get(token, (token,))] if self._ids else ids

    def _apart(self, text: str) -> list[int]:
        """The characters of a control token that merging has made of plain text."""
        found = [self._backend.model.token_to_id(character) for character in text]
        return [token for token in found if token is not None]


def _unknown(model: Any) -> set[int]:
    """What stands for a character that has no token, where that is one token."""
    try:
        return {token.id for token in model.tokenize(_NOBODYS)}
    except Exception:  # a model that refuses it
        return set()


def _state(part: Any) -> Any:
    return None if part is None else json.loads(part.__getstate__())


def _spaces_only(normalizer: Any) -> Any:
    """Of a normaliser, what writes a space as "▁"."""
    steps = normalizer.get("normalizers", [normalizer]) if normalizer else []
    return _SPACES if _SPACES in steps else None


def _without_prefix(cut: Any) -> Any:
    """A pre-tokenizer whose parts put no space before a text."""
    if not cut:
        return cut
    if "pretokenizers" in cut:
        return cut | {"pretokenizers": [_without_prefix(part) for part in cut["pretokenizers"]]}
    unprefixed = {"ByteLevel": {"add_prefix_space": False}, "Metaspace": {"prepend_scheme": "never"}}
    return cut | unprefixed.get(cut["type"], {})

"""Text to token ids and back, equal to the model's published tokenizer token for token.

Decoding joins the bytes of the tokens and reads them as UTF-8, so that a text decoded piece by piece
is the text decoded at once; bytes that are no UTF-8 become U+FFFD.
"""

import copy
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sampan.core.errors import TokenizerError
from sampan.text.vocabulary import Vocabulary, backend_errors

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


class Tokenizer:
    """A model's tokenizer. Safe to share between threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._backend = vocabulary.backend
        self._bytes: dict[int, bytes] = {}

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """The tokenizer of a folder with `tokenizer.json` and, where there are, its configuration files.

        Raises `TokenizerError` for a missing or damaged file, `UnsupportedModel` for a kind of
        tokenizer that is not implemented.
        """
        from sampan.text.folder_vocab import read_folder

        return cls(read_folder(folder))

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object]) -> Self:
        """The tokenizer in GGUF key/values (plain Python or numpy).

        Raises `TokenizerError` for a contradictory vocabulary, `UnsupportedModel` for a tokenizer
        model or pre-tokenizer that is not implemented.
        """
        from sampan.text.gguf_vocab import read_gguf

        return cls(read_gguf(metadata))

    @property
    def vocab_size(self) -> int:
        """The number of ids the model may produce, rows that only pad its embedding included."""
        return self._vocabulary.size

    @property
    def bos_id(self) -> int | None:
        """The id that starts a sequence, None if the model has none."""
        return self._vocabulary.bos_id

    @property
    def eos_ids(self) -> frozenset[int]:
        """Every id that ends a turn."""
        return self._vocabulary.eos_ids

    @property
    def adds_bos(self) -> bool:
        """Whether `encode` puts `bos_id` first."""
        return self._vocabulary.adds_bos

    @property
    def bos_text(self) -> str:
        """The entry that starts a sequence, "" if the model has none; chat templates write it."""
        return self._entry(self._vocabulary.bos_id)

    @property
    def eos_text(self) -> str:
        """The entry that ends a sequence, "" if the model has none; chat templates write it."""
        return self._entry(self._vocabulary.eos_id)

    @property
    def strip_left(self) -> int:
        """The number of leading spaces that decoding removes from a text (SentencePiece's prefix)."""
        return self._vocabulary.spelling.strip_left

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The control tokens, which decoding skips by default."""
        added = self._backend.get_added_tokens_decoder()
        return frozenset(token for token, entry in added.items() if entry.special)

    def encode(
        self, text: str, *, add_bos: bool = True, special: bool = True, closed: bool = False
    ) -> list[int]:
        """The ids of `text`.

        `add_bos`: start with `bos_id` if the model wants one; False for a rendered chat template, which
        writes it itself. `closed`: end as the model wants a text to end that is not to be continued, one to
        embed. `special`: special-token strings inside `text` become their ids; with False
        they are ordinary text. Raises `TokenizerError` for text that is not Unicode (lone surrogates).
        """
        backend = self._backend if special else self._literal
        with backend_errors("this text cannot be encoded"):
            ids = backend.encode(text, add_special_tokens=False).ids
        if closed:
            ids += self._vocabulary.closing
        return [self.bos_id, *ids] if add_bos and self.adds_bos and self.bos_id is not None else ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of `ids`, by default without control tokens; `TokenizerError` for ids outside."""
        hidden = self.special_ids if skip_special else frozenset()
        data = b"".join(self.token_bytes(token) for token in ids if token not in hidden)
        return self._vocabulary.spelling.strip(data).decode("utf-8", "replace")

    def token_text(self, token: int) -> str:
        """The vocabulary's own entry, such as "Ġthe" or "▁the"; "" for an id that only pads."""
        self._check(token)
        return self._entry(token)

    def entries(self) -> dict[str, int]:
        """Ids by entry, without those that only pad."""
        known = self._backend.get_vocab(with_added_tokens=True)
        return {entry: token for entry, token in known.items() if not entry.startswith("[PAD")}

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for, maybe a part of a character; `b""` for an id that only pads."""
        known = self._bytes.get(token)
        if known is None:
            entry = self.token_text(token)
            known = self._vocabulary.spelling.to_bytes(entry, added=token in self._added_ids)
            self._bytes[token] = known
        return known

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest token: n tokens never stand for more than n times as many."""
        to_bytes = self._vocabulary.spelling.to_bytes
        entries = ((self._entry(token), token in self._added_ids) for token in range(self.vocab_size))
        return max(len(to_bytes(entry, added=added)) for entry, added in entries)

    @cached_property
    def _added_ids(self) -> frozenset[int]:
        return frozenset(self._backend.get_added_tokens_decoder())

    @cached_property
    def _literal(self) -> "Backend":
        """A copy that knows no control tokens; its switch is shared state, so the original stays as it is."""
        literal = copy.deepcopy(self._backend)
        literal.encode_special_tokens = True
        return literal

    def _entry(self, token: int | None) -> str:
        return "" if token is None else self._backend.id_to_token(token) or ""

    def _check(self, token: int) -> None:
        if not 0 <= token < self.vocab_size:
            raise TokenizerError(f"token id {token} is outside the vocabulary of {self.vocab_size}")

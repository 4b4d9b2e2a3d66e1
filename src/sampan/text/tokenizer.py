"""Text to token ids and back, equal to the model's published tokenizer token for token.

Decoding joins the bytes of the tokens and reads them as UTF-8, so that a text decoded piece by piece
is the text decoded at once; bytes that are no UTF-8 become U+FFFD.
"""

import re
import secrets
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Self

from sampan.core.errors import TokenizerError
from sampan.text.vocab.variant import Variant
from sampan.text.vocab.vocabulary import Vocabulary, backend_errors, is_byte


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
        from sampan.text.vocab.folder import read_folder

        return cls(read_folder(folder))

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object]) -> Self:
        """The tokenizer in GGUF key/values (plain Python or numpy).

        Raises `TokenizerError` for a contradictory vocabulary, `UnsupportedModel` for a tokenizer
        model or pre-tokenizer that is not implemented.
        """
        from sampan.text.vocab.gguf import read_gguf

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

    @cached_property
    def control_ids(self) -> dict[str, int]:
        """The control tokens by what they are written as."""
        texts = {self.token_text(token): token for token in self.special_ids}
        return {text: token for text, token in texts.items() if text}

    @cached_property
    def control(self) -> re.Pattern[str] | None:
        """Finds control tokens in a text, one a group; None where there are none."""
        texts = sorted(self.control_ids, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, texts))})") if texts else None

    def encode(
        self, text: str, *, add_bos: bool = True, special: bool = True, closed: bool = False
    ) -> list[int]:
        """The ids of `text`.

        `add_bos`: start with `bos_id` if the model wants one; False for a rendered chat template, which
        writes it itself. `closed`: end as the model wants a text to end that is not to be continued, one to
        embed. `special`: special-token strings inside `text` become their ids; with False
        they are ordinary text. Raises `TokenizerError` for text that is not Unicode (lone surrogates).
        """
        if special:
            with backend_errors("this text cannot be encoded"):
                ids = self._backend.encode(text, add_special_tokens=False).ids
        else:
            ids = self._literal.encode(text)
        if closed:
            ids += self._vocabulary.closing
        return [self.bos_id, *ids] if add_bos and self.adds_bos and self.bos_id is not None else ids

    def with_marks(self, text: str) -> str:
        """A text in which control tokens are marked as such, for `encode_marked`."""
        return text if self.control is None else self.control.sub(lambda found: self._mark + found[0], text)

    def encode_marked(self, text: str) -> list[int]:
        """The ids of a text whose control tokens are those that are marked; others are plain text.

        Raises `TokenizerError` for text that is not Unicode.
        """
        return self._literal.encode(text)

    def continues(self, ids: Iterable[int]) -> bool:
        """Whether what follows `ids` goes on with their text: a space in its place is part of the text then,
        where SentencePiece would put one before a text of its own."""
        if not self.strip_left:
            return False
        known = (token for token in ids if 0 <= token < self.vocab_size and token not in self.special_ids)
        return any(map(self.token_bytes, known))

    def spell(self, data: bytes, *, special: bool = False) -> list[int]:
        """Ids that stand for exactly these bytes inside of a text: as the tokenizer writes them where it can,
        without its normalisation and its space before a text. `special`: control tokens are no text."""
        backend = self._exact_special if special else self._exact
        ids = backend.encode(data.decode("utf-8", "replace"))
        return ids if b"".join(map(self.token_bytes, ids)) == data else longest_first(data, self._spelt)

    def decode(self, ids: Iterable[int], *, skip_special: bool = True, continues: bool = False) -> str:
        """The text of `ids`, by default without control tokens; `TokenizerError` for ids outside.

        `continues`: they go on with a text (see there).
        """
        hidden = self.special_ids if skip_special else frozenset()
        data = b"".join(self.token_bytes(token) for token in ids if token not in hidden)
        data = data if continues else self._vocabulary.spelling.strip(data)
        return data.decode("utf-8", "replace")

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

    def spelt(self) -> dict[bytes, int]:
        """The token of each spelling: of several the first that is not SentencePiece's for a byte."""
        known: dict[bytes, int] = {}
        tokens = [token for token in range(self.vocab_size) if token not in self.special_ids]
        for token in sorted(tokens, key=lambda token: is_byte(self._entry(token))):
            known.setdefault(self.token_bytes(token), token)
        known.pop(b"", None)
        return known

    @cached_property
    def _spelt(self) -> dict[bytes, int]:
        return self.spelt()

    @cached_property
    def _mark(self) -> str:
        """Nobody knows it, so that no text of a user's has it."""
        return f"\ue000{secrets.token_hex(8)}\ue001"

    @cached_property
    def _literal(self) -> Variant:
        return Variant(self._backend, mark=self._mark)

    @cached_property
    def _exact_special(self) -> Variant:
        return Variant(self._backend, mark="", exact=True)

    @cached_property
    def _exact(self) -> Variant:
        return Variant(self._backend, mark=self._mark, exact=True)

    def _entry(self, token: int | None) -> str:
        return "" if token is None else self._backend.id_to_token(token) or ""

    def _check(self, token: int) -> None:
        if not 0 <= token < self.vocab_size:
            raise TokenizerError(f"token id {token} is outside the vocabulary of {self.vocab_size}")


def longest_first(data: bytes, known: Mapping[bytes, int]) -> list[int]:
    """Tokens that stand for these bytes, each the longest that fits; `TokenizerError` where none does."""
    ids, start, longest = [], 0, max(map(len, known), default=0)
    while start < len(data):
        ends = range(min(len(data), start + longest), start, -1)
        end = next((end for end in ends if data[start:end] in known), None)
        if end is None:
            raise TokenizerError(f"no token stands for the byte 0x{data[start]:02X}")
        ids.append(known[data[start:end]])
        start = end
    return ids

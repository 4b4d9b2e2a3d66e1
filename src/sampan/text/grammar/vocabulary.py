"""A tokenizer's vocabulary as grammars need it: the bytes that each token adds to an answer's text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sampan.core.errors import RequestError
from sampan.text.tokenizer import Tokenizer, longest_first

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_REASONING = ("<think>", "</think>")
_FORCED_CHARS = 1_000
"""Of a text that must come next: what is behind them is looked at when it is near."""


class Vocabulary:
    """`words`: the tokens inside of a text. `opening`: the tokens as they begin a text whose first space,
    SentencePiece's, is none of it; None where there is no such space. `ends`: tokens that end an answer.
    `quote`: a quotation mark's token, if any.

    `outline`: what `sampan.text.grammar.check` needs of it. It takes half a second to make.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        ends = sorted(tokenizer.eos_ids)
        if not ends:
            raise RequestError("this model has no token that ends an answer: it cannot follow a grammar")
        special = sorted(
            token for token in tokenizer.special_ids if tokenizer.token_text(token) not in _REASONING
        )
        tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        known = tokenizer.spelt()
        self.words = Words(tokens, special, ends, known, tokenizer.spell)
        self.opening = _opening(tokenizer, special, ends, known) if tokenizer.strip_left else None
        self.ends = frozenset(ends)
        self.quote = known.get(b'"')
        self._tokenizer = tokenizer
        texts = {str(token): tokenizer.token_text(token) for token in special}
        self.outline = {"size": len(tokens), "special": texts, "ends": ends}

    def opened(self, token: int) -> list[int]:
        """What a text's first token adds to it, in the tokens of `words`."""
        data = self._tokenizer.token_bytes(token)
        spaced = self.opening is not None and token not in self.ends and data.startswith(b" ")
        read = self._tokenizer.spell(data[1:]) if spaced else [token]
        return [self.words.one(each) for each in read]


class Words:
    """Tokens by their bytes. Of those with the same bytes llguidance, which has them as `tokens`, knows one:
    the others, its twins, are allowed where it is."""

    def __init__(
        self,
        words: Sequence[bytes],
        special: list[int],
        ends: list[int],
        known: Mapping[bytes, int],
        spell: Callable[[bytes], list[int]],
    ) -> None:
        import llguidance

        control = frozenset(special)
        self._one = {
            token: known[data]
            for token, data in enumerate(words)
            if token not in control and known.get(data, token) != token
        }
        self._spaces = [token for token, data in enumerate(words) if data == b" " and token not in control]
        own = [b"" if token in self._one else data for token, data in enumerate(words)]
        asked: Any = _Asked(ends[0], own, special, lambda data: list(map(self.one, spell(data))))
        self.tokens: LLTokenizer = llguidance.LLTokenizer(asked, eos_token=ends)
        matcher = llguidance.LLMatcher
        matcher(self.tokens, matcher.grammar_from_regex("a")).compute_bitmask()  # what is built once

    def one(self, token: int) -> int:
        """The token that llguidance knows in the place of this one."""
        return self._one.get(token, token)

    def first(self, mask: bytes) -> bytes:
        """A mask of what opens a text, and the space that may come before it."""
        bits = bytearray(self.with_twins(mask))
        for token in self._spaces:
            bits[token >> 3] |= 1 << (token & 7)
        return bytes(bits)

    def with_twins(self, mask: bytes) -> bytes:
        """A mask of llguidance's, and the twins of what it allows."""
        if not self._one:
            return mask
        bits = bytearray(mask)
        for twin, one in self._one.items():
            if bits[one >> 3] >> (one & 7) & 1:
                bits[twin >> 3] |= 1 << (twin & 7)
        return bytes(bits)


def _opening(tokenizer: Tokenizer, special: list[int], ends: list[int], known: Mapping[bytes, int]) -> Words:
    """Of two tokens that differ in that space alone, the one that has it: models expect it. A space without
    anything keeps its byte here."""
    tokens = map(tokenizer.token_bytes, range(tokenizer.vocab_size))
    first = [data[1:] if data[:1] == b" " and data != b" " else data for data in tokens]
    plain = {data: token for data, token in known.items() if first[token] == data}
    spaced = {first[token]: token for data, token in known.items() if first[token] != data}
    chosen = plain | spaced

    def spell(data: bytes) -> list[int]:
        """As the tokenizer begins it; what comes then is told by `words`."""
        one = tokenizer.spell(b" " + data)[0]
        begun = [one] if chosen.get(first[one]) == one and data.startswith(first[one]) else []
        return begun + longest_first(data[sum(len(first[one]) for one in begun) :], chosen)

    return Words(first, special, ends, chosen, spell)


@dataclass(frozen=True)
class _Asked:
    """What llguidance asks of a tokenizer."""

    eos_token_id: int
    tokens: list[bytes]
    special_token_ids: list[int]
    spell: Callable[[bytes], list[int]]
    bos_token_id: None = None
    is_tokenizer_wrapper: bool = True

    def __call__(self, text: str | bytes) -> list[int]:
        text = text if isinstance(text, str) else text.decode("utf-8", "replace")
        return self.spell(text[:_FORCED_CHARS].encode())

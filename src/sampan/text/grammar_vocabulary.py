"""A tokenizer's vocabulary as grammars need it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sampan.core.errors import RequestError
from sampan.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_REASONING = ("<think>", "</think>")
_FORCED_CHARS = 1_000
"""Of a text that must come next: what is behind them is looked at when it is near."""


class Vocabulary:
    """`words`: for llguidance. `ends`: tokens that end an answer. `quote`: a quotation mark's token, if any.

    `outline`: what `sampan.text.grammar_check` needs of it. It takes half a second to make.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        import llguidance

        ends = sorted(tokenizer.eos_ids)
        if not ends:
            raise RequestError("this model has no token that ends an answer: it cannot follow a grammar")
        special = sorted(
            token for token in tokenizer.special_ids if tokenizer.token_text(token) not in _REASONING
        )
        tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        words: Any = _Words(tokenizer, ends[0], tokens, special)
        self.words: LLTokenizer = llguidance.LLTokenizer(words, eos_token=ends)
        matcher = llguidance.LLMatcher
        matcher(self.words, matcher.grammar_from_regex("a")).compute_bitmask()  # what is built once
        self.ends = frozenset(ends)
        self.quote = tokens.index(b'"') if b'"' in tokens else None
        texts = {str(token): tokenizer.token_text(token) for token in special}
        self.outline = {"size": len(tokens), "special": texts, "ends": ends}


@dataclass(frozen=True)
class _Words:
    """What llguidance asks of a tokenizer."""

    tokenizer: Tokenizer
    eos_token_id: int
    tokens: list[bytes]
    special_token_ids: list[int]
    bos_token_id: None = None
    is_tokenizer_wrapper: bool = True

    def __call__(self, text: str | bytes) -> list[int]:
        text = text if isinstance(text, str) else text.decode("utf-8", "replace")
        return self.tokenizer.encode(text[:_FORCED_CHARS], add_bos=False, special=False)

"""Schemas over a vocabulary of single bytes: what they take is soon known, and no model is needed."""

import json
from functools import cache
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from sampan.core.errors import RequestError
from sampan.core.types import Grammar
from sampan.text.grammar.source import read_grammar


class Bytes:
    """The vocabulary of single bytes, as llguidance asks for it."""

    is_tokenizer_wrapper, bos_token_id, eos_token_id, special_token_ids = True, None, 256, (256,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@cache
def vocabulary() -> LLTokenizer:
    """It, made once."""
    words: Any = Bytes()
    return LLTokenizer(words, eos_token=256, slices=[])


def ours(schema: Any) -> LLMatcher | None:
    """A schema as answers are held to it; None where it is refused."""
    try:
        source = read_grammar(Grammar("json_schema", json.dumps(schema)), False)
    except RequestError:
        return None
    matcher = LLMatcher(vocabulary(), source.text, log_level=0, limits=source.limits())
    return None if matcher.is_error() else matcher


def takes(matcher: LLMatcher, value: Any) -> bool:
    """Whether a value, as json.dumps writes it, is a whole answer."""
    text = json.dumps(value, ensure_ascii=False).encode()
    matcher = matcher.deep_copy()
    return bool(matcher.try_consume_tokens(list(text)) == len(text) and matcher.is_accepting())

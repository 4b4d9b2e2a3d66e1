"""SentencePiece's normalisation of texts, and its unigram model (arXiv:1804.10959), as pipelines of the
tokenizers library (google/sentencepiece, normalizer.cc and unigram_model.cc).

The library reads the table of characters by graphemes, SentencePiece by the longest match: a letter that the
table changes loses the combining marks behind it here, as it does in every `tokenizer.json` with that table.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend
    from tokenizers.normalizers import Normalizer

NORMAL, USER_DEFINED = 1, 4  # types of entries; what has another one is never made of text


def normalizer(*, prefix: bool, charsmap: bytes = b"", collapse: bool = False) -> "Normalizer":
    """`prefix`: whatever the text starts with, it gets a space of its own. `charsmap`: SentencePiece's table
    of characters, empty for none. `collapse`: spaces at both ends go, and of several one stays."""
    from tokenizers import Regex, normalizers

    steps: list[Normalizer] = [normalizers.Precompiled(charsmap)] if charsmap else []
    if collapse:
        steps += [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if prefix:
        steps.append(normalizers.Prepend("▁"))
    steps.append(normalizers.Replace(" ", "▁"))
    if collapse:
        steps.append(normalizers.Replace(Regex(r"▁+\z"), ""))
    return normalizers.Sequence(steps)


def unigram(
    tokens: Sequence[str], kinds: Sequence[int], scores: Sequence[float], unknown: int | None
) -> "Backend":
    """The model with its cuts, without a normaliser. `kinds`: of entries, as SentencePiece numbers them."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    plain = [score for kind, score in zip(kinds, scores, strict=True) if kind == NORMAL]
    least, best = min(plain, default=0.0), max(plain, default=0.0)
    # Chosen before all else that a text of its own could be cut into.
    own = {USER_DEFINED: lambda token: 1 + max(best, 0.0) * len(token)}
    entries = [
        (token, score if kind == NORMAL else own.get(kind, lambda _: least)(token))
        for token, kind, score in zip(tokens, kinds, scores, strict=True)
    ]
    fallback = all(f"<0x{byte:02X}>" in tokens for byte in range(256))
    backend = Tokenizer(models.Unigram(entries, unk_id=unknown, byte_fallback=fallback))
    whole = [token for token, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED]
    silent = [token for token, kind in zip(tokens, kinds, strict=True) if kind not in (NORMAL, USER_DEFINED)]
    known = "\0".join(token for token, kind in zip(tokens, kinds, strict=True) if kind == NORMAL)
    cuts = []
    if whole:
        found = "|".join(map(re.escape, sorted(whole, key=len, reverse=True)))
        cuts.append(pre_tokenizers.Split(Regex(found), "isolated"))
    if apart := _apart(silent, known):
        cuts.append(pre_tokenizers.Split(Regex(apart), "merged_with_previous"))
    if cuts:
        backend.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    return backend


def _apart(silent: Sequence[str], known: str) -> str:
    """A pattern of where texts are cut that look like an entry which no text leads to: inside of it, where
    that is no other entry's inside. `known`: all other entries."""
    heads: dict[str, list[str]] = defaultdict(list)
    for token in silent:
        places = [at for at in range(1, len(token)) if token[at - 1 : at + 1] not in known]
        at = next(iter(places), 1)
        if token[at:]:
            heads[token[:at]].append(re.escape(token[at:]))
    return "|".join(f"{re.escape(head)}(?={'|'.join(tails)})" for head, tails in heads.items())

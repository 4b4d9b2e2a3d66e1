"""Rebuilds a vocabulary from the metadata of a GGUF file.

The keys are llama.cpp's `tokenizer.ggml.*`; values are plain Python or numpy. A byte-level vocabulary
("gpt2") carries its merges; a SentencePiece one carries scores: of a unigram model ("t5"), or such from
which the merges follow ("llama").
Contradictions are `TokenizerError`s that name the key and the entry.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, cast

from sampan.core.errors import TokenizerError, UnsupportedModel, quoted
from sampan.text.metadata import Metadata
from sampan.text.vocab.pretokenizers import pipeline, told_by
from sampan.text.vocab.unigram import normalizer, unigram
from sampan.text.vocab.vocabulary import GGUF_ENDS, PART_ENDS, Spelling, Vocabulary, backend_errors

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

_TOKENS = "tokenizer.ggml.tokens"
_MERGES = "tokenizer.ggml.merges"
_SCORES = "tokenizer.ggml.scores"
_PREFIX = "tokenizer.ggml.add_space_prefix"
_CHARSMAP = "tokenizer.ggml.precompiled_charsmap"
# llama.cpp's token types; 5 is unused.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_LONGEST_PIECE = 1024  # characters: finding the merges of a piece takes the square of its length


@dataclass(frozen=True)
class _Entries:
    """The file's entries in the order of their ids, their llama.cpp types, and the ids it names."""

    tokens: list[str]
    ids: dict[str, int]
    types: list[int]
    bos: int | None
    eos: int | None
    unknown: int | None
    ends: frozenset[int]


def read_gguf(values: Mapping[str, object]) -> Vocabulary:
    """The vocabulary in GGUF metadata.

    Raises `TokenizerError` for missing or contradictory entries, `UnsupportedModel` for a tokenizer
    model or pre-tokenizer that is not implemented.
    """
    metadata = Metadata(values)
    model = metadata.text("tokenizer.ggml.model")
    build = _BUILDERS.get(str(model))
    if build is None:
        raise UnsupportedModel(
            f"GGUF key tokenizer.ggml.model is {quoted(model)}; implemented are 'gpt2' (byte-level BPE), "
            "'llama' (SentencePiece BPE) and 't5' (SentencePiece unigram): use a model with one of these"
        )
    entries = _read_entries(metadata, sentencepiece=model != "gpt2")
    backend, spelling, adds_bos = build(metadata, entries)
    _add_tokens(backend, entries, visible=model != "t5")
    return Vocabulary(
        backend=backend,
        spelling=spelling,
        size=len(entries.tokens),
        bos_id=entries.bos,
        eos_id=entries.eos,
        eos_ids=entries.ends,
        adds_bos=entries.bos is not None and metadata.flag("tokenizer.ggml.add_bos_token", adds_bos),
        closing=(entries.eos,)
        if entries.eos is not None and metadata.flag("tokenizer.ggml.add_eos_token", model == "t5")
        else (),
    )


def _read_entries(metadata: Metadata, *, sentencepiece: bool) -> _Entries:
    tokens = _without_empty(metadata.strings(_TOKENS))
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(ids) != len(tokens):
        first = next(place for place, token in enumerate(tokens) if ids[token] != place)
        raise TokenizerError(
            f"GGUF key {_TOKENS}[{first}] and [{ids[tokens[first]]}] are both {quoted(tokens[first])}: "
            "the file is damaged, fetch it again"
        )
    types = metadata.numbers("tokenizer.ggml.token_type", len(tokens), (int,))

    def named(name: str, default: int | None = None) -> int | None:
        usable = default if sentencepiece and len(tokens) > 2 else None
        return metadata.token_id(f"tokenizer.ggml.{name}_token_id", len(tokens), usable)

    # The defaults are llama.cpp's for a SentencePiece file that names no special tokens.
    unknown, bos, eos = named("unknown", 0), named("bos", 1), named("eos", 2)
    others = map(named, ("eot", "eom", "fim_pad", "fim_rep", "fim_sep"))
    ends = {token for token in (eos, *others) if token is not None}
    ends |= {ids[text] for text in GGUF_ENDS if text in ids}
    ends -= {
        ids[text]
        for text, others in PART_ENDS.items()
        if any(each <= ids.keys() for each in others) and text in ids
    }
    return _Entries(tokens, ids, types or [_NORMAL] * len(tokens), bos, eos, unknown, frozenset(ends))


def _without_empty(tokens: list[str]) -> list[str]:
    """Entries, of which empty ones are called as llama.cpp calls them: no text leads to these."""
    empty = [token for token, text in enumerate(tokens) if not text]
    if empty:
        warnings.warn(
            f"GGUF key {_TOKENS}: passed over {len(empty)} empty entries, the first at [{empty[0]}]",
            stacklevel=2,
        )
    return [text or f"[EMPTY_{token}]" for token, text in enumerate(tokens)]


def _byte_level(metadata: Metadata, entries: _Entries) -> "tuple[Backend, Spelling, bool]":
    from tokenizers import Tokenizer, models

    cut = pipeline(_pre(metadata, entries))
    merges = metadata.strings(_MERGES)
    pairs = cast("list[tuple[str, str]]", [tuple(merge.split(" ")) for merge in merges])
    try:
        with backend_errors(f"GGUF keys {_TOKENS} and {_MERGES} cannot be used"):
            model = models.BPE(vocab=entries.ids, merges=pairs, ignore_merges=cut.ignore_merges)
    except TokenizerError as error:
        raise _faulty_merge(merges, entries.ids) or error from None
    backend = Tokenizer(model)
    cut.install(backend)
    return backend, Spelling(byte_level=True), cut.adds_bos


def _pre(metadata: Metadata, entries: _Entries) -> str | None:
    """The name of the way texts are cut; files of before the key, and of converters that did not know the
    model, are told by their entries."""
    pre = metadata.text("tokenizer.ggml.pre")
    if pre not in (None, "", "default") or (told := told_by(entries.ids)) is None:
        return pre
    warnings.warn(
        f"GGUF key tokenizer.ggml.pre is {quoted(pre)}: texts are cut as {told}, by the entries of the "
        "vocabulary; convert the model again if its answers are poor",
        stacklevel=2,
    )
    return told


def _faulty_merge(merges: list[str], ids: dict[str, int]) -> TokenizerError | None:
    """What is wrong with the first merge that cannot be one, None if all can."""
    for place, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        missing = [token for token in (left, right, left + right) if token not in ids]
        if merge.count(" ") != 1 or missing:
            fault = (
                f"{_TOKENS} has no {quoted(missing[0])}" if missing else "a merge is two entries and a space"
            )
            return TokenizerError(
                f"GGUF key {_MERGES}[{place}] is {quoted(merge)}, but {fault}: fetch the file again"
            )
    return None


def _sentencepiece(metadata: Metadata, entries: _Entries) -> "tuple[Backend, Spelling, bool]":
    from tokenizers import Tokenizer, models

    merges = _merges_from_scores(metadata, entries)
    unknown = None if entries.unknown is None else entries.tokens[entries.unknown]
    with backend_errors(f"GGUF key {_TOKENS} cannot be used"):
        model = models.BPE(
            vocab=entries.ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True
        )
    backend = Tokenizer(model)
    prefix = metadata.flag(_PREFIX, True)
    backend.normalizer = normalizer(prefix=prefix)
    return backend, Spelling(byte_level=False, strip_left=int(prefix)), True


def _unigram(metadata: Metadata, entries: _Entries) -> "tuple[Backend, Spelling, bool]":
    scores = [float(score) for score in _scores(metadata, entries)]
    with backend_errors(f"GGUF key {_TOKENS} cannot be used"):
        backend = unigram(entries.tokens, entries.types, scores, entries.unknown)
    prefix, charsmap = metadata.flag(_PREFIX, True), metadata.bytes(_CHARSMAP)
    collapse = metadata.flag("tokenizer.ggml.remove_extra_whitespaces", False)
    with backend_errors(f"GGUF key {_CHARSMAP} cannot be used"):
        backend.normalizer = normalizer(charsmap=charsmap, collapse=collapse, prefix=prefix)
    return backend, Spelling(byte_level=False, strip_left=int(prefix)), False


_BUILDERS = {"gpt2": _byte_level, "llama": _sentencepiece, "t5": _unigram}


def _scores(metadata: Metadata, entries: _Entries) -> Sequence[float]:
    scores = metadata.numbers(_SCORES, len(entries.tokens), (float, int))
    if scores is None:
        raise TokenizerError(
            f"GGUF key {_SCORES} is missing: a SentencePiece vocabulary needs it, use another file"
        )
    return scores


def _merges_from_scores(metadata: Metadata, entries: _Entries) -> list[tuple[str, str]]:
    """Every way to make an entry of two others: best score first, then longest left part."""
    scores = _scores(metadata, entries)
    longest = max(map(len, entries.tokens), default=0)
    if longest > _LONGEST_PIECE:
        raise TokenizerError(
            f"GGUF key {_TOKENS} has an entry of {longest} characters; {_LONGEST_PIECE} are the most allowed"
        )
    # As in SentencePiece, control and byte entries never come out of merging.
    pieces = {
        token: score
        for token, kind, score in zip(entries.tokens, entries.types, scores, strict=True)
        if kind not in (_UNKNOWN, _CONTROL, _BYTE)
    }
    splits = [
        (-score, -cut, cut - len(token), left, right)
        for token, score in pieces.items()
        for cut in range(1, len(token))
        if (left := token[:cut]) in pieces and (right := token[cut:]) in pieces
    ]
    splits.sort(key=itemgetter(0, 1, 2))
    return [(left, right) for *_, left, right in splits]


def _add_tokens(backend: "Backend", entries: _Entries, *, visible: bool) -> None:
    """Control entries, turn ends and user-defined ones are matched whole; the latter stay `visible`, where
    the model does not find them by itself."""
    from tokenizers import AddedToken

    marked = [(token, kind) for token, kind in enumerate(entries.types) if kind != _NORMAL]
    control = {token for token, kind in marked if kind in (_UNKNOWN, _CONTROL)} | entries.ends
    if entries.bos is not None:
        control.add(entries.bos)
    whole = {token for token, kind in marked if kind == _USER_DEFINED and visible} - control
    with backend_errors(f"GGUF key {_TOKENS} cannot be used"):
        for special, chosen in ((True, control), (False, whole)):
            texts = [entries.tokens[token] for token in sorted(chosen)]
            backend.add_tokens([AddedToken(text, special=special, normalized=False) for text in texts])

"""A model's own sampling: what its files say of it, and what of that is not done here."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeGuard

from sampan.catalog.catalog import find
from sampan.core.errors import quoted
from sampan.core.types import ModelFiles, SamplingParams

_NUMBERS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_LENGTHS = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "max_length": "max_length"}
_TOKENS = {
    "suppress_tokens": "suppress_tokens", "begin_suppress_tokens": "begin_suppress_tokens",
    "forced_eos_token_id": "forced_eos_token_ids", "forced_bos_token_id": "first",
}  # fmt: skip
_SUPPRESSED = "tokenizer.ggml.suppress_tokens"
# What would change answers, with the value that changes none.
_NOT_DONE: dict[str, object] = {
    "forced_decoder_ids": None, "force_words_ids": None,
    "min_length": 0, "max_time": None, "num_beams": 1, "num_beam_groups": 1, "penalty_alpha": 0,
    "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1,
    "typical_p": 1, "top_h": None, "epsilon_cutoff": 0, "eta_cutoff": 0, "diversity_penalty": 0,
    "sequence_bias": None, "exponential_decay_length_penalty": None, "guidance_scale": 1,
    "watermarking_config": None, "constraints": None, "dola_layers": None,
}  # fmt: skip


def defaults_of(
    generation: Mapping[str, object],
    files: ModelFiles,
    *,
    vocabulary: int,
    ends: frozenset[int] = frozenset(),
    metadata: Mapping[str, object] | None = None,
    say: Callable[[str], None] | None = None,
) -> SamplingParams:
    """The model's own sampling: `generation_config.json`, where a model that does not sample is greedy.

    Where that says nothing of it, what its authors advise, as the catalogue has it. A GGUF file has none, and
    for others than the catalogue's the values hold that users of such files know, llama.cpp's; only tokens
    that are to be suppressed are in its `metadata`. `vocabulary`, `ends`: the tokens, and those that end an
    answer. `say` is told what is not obeyed.
    """
    say = say or _nothing
    own = _rules(generation, vocabulary, ends, say)
    suppressed = (metadata or {}).get(_SUPPRESSED)
    if suppressed is not None:
        own["suppress_tokens"] = _tokens(_SUPPRESSED, suppressed, vocabulary, say)
    return replace(_sampling(generation, files, say), **own)


def warn(files: ModelFiles) -> Callable[[str], None]:
    """Says it as a warning about a model's files."""
    return lambda text: warnings.warn(f"{files.path}: {text}", stacklevel=2)


def _nothing(_: str) -> None:
    pass


def _sampling(
    generation: Mapping[str, object], files: ModelFiles, say: Callable[[str], None]
) -> SamplingParams:
    defaults = SamplingParams()
    given = {name: value for name in _NUMBERS if _is_number(value := generation.get(name))}
    for name in _NUMBERS:
        if name not in given and generation.get(name) is not None:
            say(f"passed over {name} {quoted(generation[name])}, which is no number")
    entry = find(files.source)
    if entry is not None and entry.sampling and not given and "do_sample" not in generation:
        return replace(defaults, **entry.sampling)  # type: ignore[arg-type]
    if not generation:
        return SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
    if not generation.get("do_sample", False):
        given["temperature"] = 0
    return replace(defaults, **given)  # type: ignore[arg-type]


def _rules(
    generation: Mapping[str, object], vocabulary: int, ends: frozenset[int], say: Callable[[str], None]
) -> dict[str, Any]:
    """What else than sampling the file asks for, as fields of `SamplingParams`."""
    own: dict[str, Any] = {}
    for name, field in _LENGTHS.items():
        value = generation.get(name)
        if isinstance(value, int) and value > 0:
            own[field] = int(value)
        elif value is not None and value != 0:
            say(f"passed over {name} {quoted(value)}, which is no number of tokens")
    for name, field in _TOKENS.items():
        if (value := generation.get(name)) is not None:
            own[field] = _tokens(name, value, vocabulary, say)
    if first := own.pop("first", None):
        own["forced_bos_token_id"] = first[0]
    if (words := generation.get("bad_words_ids")) is not None:
        own["bad_words_ids"] = _words(words, vocabulary, ends, say)
    if (stops := generation.get("stop_strings")) is not None:
        texts = (stops,) if isinstance(stops, str) else stops
        if isinstance(texts, list | tuple) and all(isinstance(text, str) and text for text in texts):
            own["stop"] = tuple(texts)
        else:
            say(f"passed over stop_strings {quoted(stops)}: no list of texts")
    for name, harmless in _NOT_DONE.items():
        value = generation.get(name)
        if value is not None and value != harmless and value != []:
            say(f"{name} {quoted(value)} is not obeyed: it is not implemented")
    return own


def _tokens(name: str, value: object, vocabulary: int, say: Callable[[str], None]) -> tuple[int, ...]:
    """One id or several; those that the model does not have are passed over."""
    listed: list[Any] = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    known = tuple(int(token) for token in listed if _is_token(token, vocabulary))
    for token in listed:
        if not _is_token(token, vocabulary):
            say(f"passed over {quoted(token)} of {name}: there are {vocabulary} tokens")
    return known


def _words(
    value: object, vocabulary: int, ends: frozenset[int], say: Callable[[str], None]
) -> tuple[tuple[int, ...], ...]:
    """Lists of ids; as in transformers, one that is the end of an answer alone is none."""
    words = value if isinstance(value, list | tuple) else [value]
    known = []
    for word in words:
        ids = word if isinstance(word, list | tuple) else [word]
        if ids and all(_is_token(token, vocabulary) for token in ids):
            known.append(tuple(map(int, ids)))
        else:
            say(f"passed over {quoted(word)} of bad_words_ids: no list of ids of the {vocabulary} tokens")
    return tuple(word for word in known if not (len(word) == 1 and word[0] in ends))


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_token(value: Any, vocabulary: int) -> bool:
    """Also of numpy's integers."""
    return hasattr(value, "__index__") and not isinstance(value, bool) and 0 <= value < vocabulary

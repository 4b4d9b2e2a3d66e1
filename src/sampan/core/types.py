"""Frozen data that crosses folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from sampan.core.errors import RequestError, quoted

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True)
class ModelFiles:
    """A model on disk, found by the catalogue.

    `path` is a `.gguf` file (`kind == "gguf"`) or a folder with `config.json`, `*.safetensors` and
    `tokenizer.json` (`kind == "folder"`). `name` is what the user asked for.
    """

    path: Path
    kind: Literal["gguf", "folder"]
    name: str
    source: str


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen. `temperature == 0` is greedy; `top_k == 0` and `top_p == 1` mean off.

    `logprobs`: None for none, otherwise the number of alternatives reported beside the chosen token.
    `seed`: None draws a fresh one. `stop`: texts that end the answer and are not part of it; one may be given
    alone. Penalties follow the OpenAI (presence, frequency) and CTRL (repetition, arXiv:1909.05858)
    definitions. `max_reasoning_tokens`: after so many in its block of reasoning that is closed and the answer
    begins; None for as many as the model likes. `min_tokens`: before so many, no token ends the answer.
    `tempered`: log-probabilities are those at the temperature, whatever the filters; else the model's own.
    `suppress_tokens` are never chosen, `begin_suppress_tokens` not first, and of `bad_words_ids` none is
    completed. `max_length`: of prompt and answer together; `max_tokens` goes before it. The first token
    behind a prompt of one is `forced_bos_token_id`, and the last that there is room for is of
    `forced_eos_token_ids`. A grammar that allows nothing else goes before all of these. A field of the wrong
    type is a `RequestError`; ranges are checked with the request.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    max_reasoning_tokens: int | None = None
    min_tokens: int = 0
    suppress_tokens: Sequence[int] = ()
    begin_suppress_tokens: Sequence[int] = ()
    bad_words_ids: Sequence[Sequence[int]] = ()
    tempered: bool = False
    max_length: int | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_ids: Sequence[int] = ()

    def __post_init__(self) -> None:
        _require(self, Integral, "a whole number", "top_k", "min_tokens")
        wholes = (
            "max_tokens",
            "seed",
            "logprobs",
            "max_reasoning_tokens",
            "max_length",
            "forced_bos_token_id",
        )
        _require(self, Integral, "a whole number or None", *wholes, optional=True)
        _require(self, Real, "a number", "temperature", "top_p", "min_p")
        _require(self, Real, "a number", "repetition_penalty", "presence_penalty", "frequency_penalty")
        object.__setattr__(self, "stop", _tuple("stop", self.stop, str))
        lists = ("stop_token_ids", "suppress_tokens", "begin_suppress_tokens", "forced_eos_token_ids")
        for name in lists:
            object.__setattr__(self, name, _tuple(name, getattr(self, name), Integral))
        words = [
            _tuple("bad_words_ids", word, Integral) for word in _listed("bad_words_ids", self.bad_words_ids)
        ]
        object.__setattr__(self, "bad_words_ids", tuple(words))
        for name in ("ignore_eos", "tempered"):
            if not isinstance(getattr(self, name), bool):
                raise RequestError(f"{name} is {quoted(getattr(self, name))}: give True or False")
        if not isinstance(self.logit_bias, Mapping) or not all(
            _is(token, Integral) and _is(bias, Real) for token, bias in self.logit_bias.items()
        ):
            raise RequestError(f"logit_bias is {quoted(self.logit_bias)}: give numbers by token id")

    def limit(self, prompt: int, context: int) -> int:
        """The length at which an answer to a prompt of so many tokens ends. Raises `RequestError` where
        `max_length` leaves no room for one."""
        if self.max_tokens is not None:
            return min(context, prompt + self.max_tokens)
        if self.max_length is not None and prompt >= self.max_length:
            raise RequestError(
                f"the prompt has {prompt} tokens, and max_length is {self.max_length}, of prompt and answer "
                "together: give max_tokens"
            )
        return context if self.max_length is None else min(context, self.max_length)


GrammarKind = Literal["json_schema", "json_object", "regex", "lark", "choice"]


@dataclass(frozen=True)
class Grammar:
    """What an answer must look like. `source`: a JSON schema, a regular expression, a Lark grammar or a JSON
    list of texts to choose from, as text; nothing for "json_object". Anything else is a `RequestError`.

    `calls`: a Lark grammar of what it may look like instead, which names the rest `@form`: of calls of tools.
    `after`: an answer is any text, but behind this one, each time that it comes, it must look so; where the
    grammar cannot be used, it is any text altogether.
    """

    kind: GrammarKind
    source: str = ""
    calls: str = ""
    after: str = ""

    def __post_init__(self) -> None:
        kinds = get_args(GrammarKind)
        if not isinstance(self.kind, str) or self.kind not in kinds:
            raise RequestError(f"the kind of grammar is {quoted(self.kind)}: one of {', '.join(kinds)}")
        for given in (self.source, self.calls, self.after):
            if not isinstance(given, str):
                raise RequestError(f"the source of a grammar is {quoted(given)}: give a text")


class TokenLogprob(NamedTuple):  # one is made for every token: a frozen dataclass takes four times as long
    """The natural-log probability of one chosen token and of its best alternatives (id, logprob)."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class TokenScore(NamedTuple):
    """What a model thinks of a given token after those before it.

    `logprob`: natural, at the temperature asked for. Where asked for: `rank` (1: the greedy choice),
    `entropy` of the distribution in nats, `top`, its best alternatives (id, logprob), and the
    log-probabilities of `others`."""

    token: int
    logprob: float
    rank: int | None = None
    entropy: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    others: tuple[float, ...] = ()


@dataclass(frozen=True)
class Scoring:
    """Which given tokens are scored, and how: those from `start` on (the first of all never is).

    `top`: alternatives to each. `ranks`, `entropy`: whether they are told. `temperature`: of the distribution
    that log-probabilities, entropies and alternatives are of. `others`: tokens whose log-probabilities are
    told in each place, beside the given one's.
    """

    start: int = 0
    top: int = 0
    ranks: bool = False
    entropy: bool = False
    temperature: float = 1.0
    others: tuple[int, ...] = ()

    @property
    def plain(self) -> bool:
        """Log-probabilities of the model itself, and nothing else."""
        return not (self.top or self.ranks or self.entropy or self.others) and self.temperature == 1.0


Pooling = Literal["last", "mean"]
"""Which hidden states of a text, after the final norm, are its embedding: the last, or all on average."""


@dataclass(frozen=True)
class Delta:
    """What one token added: text to show, reasoning to show, or the end (with whatever was held back)."""

    text: str = ""
    reasoning: str = ""
    token: TokenLogprob | None = None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Call:
    """A call of a tool: the function's name and its arguments, a JSON object as text."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Completion:
    """An answer.

    `reasoning`: what a reasoning model thought before it, without the tags. `tokens`: the ids that were
    sampled, an end-of-sequence token included; `logprobs` has one entry for each. `finish_reason`: "stop" (a
    stop token or text), "length" (`max_tokens`, or the context is full), "abort" (as far as it got).
    `cached_tokens`: tokens of the prompt that an earlier request had computed; what an answer cost does not
    count when answers are compared. `weights_version`: of the weights that gave the last token.
    `adapter`: the id of the adapter that gave every token, which no other ever has; 0 for none. `calls`: of
    the tools that were offered; `text` is what stands beside them.
    """

    text: str
    reasoning: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int = field(default=0, compare=False)
    weights_version: int = field(default=0, compare=False)
    adapter: int = field(default=0, compare=False)
    calls: tuple[Call, ...] = ()

    @property
    def completion_tokens(self) -> int:
        """How many tokens were sampled."""
        return len(self.tokens)


@dataclass(frozen=True)
class Score:
    """Teacher-forced log-probabilities.

    `logprobs`: of each id after those before it, natural logarithms; the first is None. `nll`: minus their
    sum, in nats. `perplexity`: exp(nll / scored ids), None where nothing is scored. Where they were asked
    for: `ranks` (1: the greedy choice), `entropies` in nats, and `top_logprobs`, (id, logprob) best first.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    nll: float
    perplexity: float | None
    ranks: tuple[int | None, ...] | None = None
    entropies: tuple[float | None, ...] | None = None
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] | None = None


@dataclass(frozen=True)
class Licence:
    """A licence in words: what it allows and what it asks."""

    name: str
    commercial_use: bool
    allows: str
    asks: str
    url: str = ""


def _is(value: object, kind: type) -> bool:
    """Python's True and False are numbers; as one of these they are a mistake."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _require(p: SamplingParams, kind: type, what: str, *names: str, optional: bool = False) -> None:
    for name in names:
        value = getattr(p, name)
        if not _is(value, kind) and not (optional and value is None):
            raise RequestError(f"{name} is {quoted(value)}: give {what}")


def _tuple(name: str, value: object, kind: type) -> tuple[object, ...]:
    """A sequence as a tuple; one item alone counts as a sequence of one."""
    items = [value] if _is(value, kind) else _listed(name, value)
    if not all(_is(item, kind) for item in items):
        raise _no_list(name, value)
    return tuple(items)


def _listed(name: str, value: object) -> Sequence[object]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray):
        raise _no_list(name, value)
    return value


def _no_list(name: str, value: object) -> RequestError:
    what = "texts" if name == "stop" else "token ids"
    return RequestError(f"{name} is {quoted(value)}: give a list of {what}")

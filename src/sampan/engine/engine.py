"""The engine: token ids in, token ids out. Text, templates and tools stay outside."""

import os
import struct
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import replace
from itertools import count
from numbers import Integral

import numpy as np
import numpy.typing as npt

from sampan.core.errors import ContextOverflow, RequestError, WeightsError, quoted
from sampan.core.types import Pooling, SamplingParams, Scoring
from sampan.engine.blocks import BlockPool
from sampan.engine.budget import SCORE_ROWS, SUMMED_ROWS
from sampan.engine.constraint import Constraint, Guarded
from sampan.engine.drafting import Counters
from sampan.engine.pooling import PromptVector
from sampan.engine.runner import Runner
from sampan.engine.sampler import takes_best
from sampan.engine.scheduler import Scheduler
from sampan.engine.sequence import Event, Sequence, Span
from sampan.kernels.backend import DRAFT_ROWS, PAGE, Adapter, NewValues
from sampan.kernels.graph import LOGITS
from sampan.kernels.ops import HIDDEN


class Engine:
    """Continuous batching over one model. Not thread-safe: one caller steps it.

    `context`: the longest sequence in tokens, or fewer where the runner's cache cannot hold that many.
    `eos_ids`: tokens that end a sequence unless `ignore_eos`. `prefix_cache`: full pages of known text are
    shared, not computed again. `draft_rows`: rows up to which a step that only decodes is filled with drafts
    (`drafting.py`), 0 for none; `lookup`: prompt lookup makes some; `forced_rows`: the same rows for what
    grammars force. None changes a bit of any answer.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        context: int,
        vocabulary: int,
        eos_ids: frozenset[int],
        max_sequences: int,
        prefix_cache: bool = True,
        draft_rows: int = DRAFT_ROWS,
        lookup: bool = True,
        forced_rows: int = 0,
    ) -> None:
        self.runner = runner
        self.context = min(context, runner.pages * PAGE - 1)  # the scheduler admits one token more
        self.vocabulary = vocabulary
        self.eos_ids = eos_ids
        self.pool = BlockPool(runner.pages, PAGE, reuse=prefix_cache)
        summed = SUMMED_ROWS if runner.executable.takes_targets else None
        self.scheduler = Scheduler(
            self.pool, runner.max_rows, max_sequences, draft_rows, SCORE_ROWS, summed, runner.drafter, lookup,
            states=runner.states, forced_rows=forced_rows,
        )  # fmt: skip
        self.steps = 0
        self._ids = count()
        self.weights_version = 0
        self._leaving: set[int] = set()

    def add(
        self,
        prompt: Seq[int],
        sampling: SamplingParams,
        *,
        constraint: Constraint | None = None,
        adapter: int | None = None,
        salt: bytes = b"",
        scoring: Scoring | None = None,
        pooling: Pooling | None = None,
    ) -> int:
        """Queue a request; returns its id. Raises RequestError for what can never be served.

        `constraint`: what its tokens must obey, for this request alone; the answer ends ("stop") once it is
        done, whatever `ignore_eos` says. `adapter`: what `load_adapter` gave; None is the model itself.
        `salt`: only requests of the same find each other's prefixes in the cache. `scoring`: the prompt's
        tokens are scored too; with `max_tokens` 0 nothing else happens. `pooling`: the prompt becomes a
        vector and nothing else happens, on an executable that gives hidden states.
        """
        self._check_kind(pooling)
        generates = sampling.max_tokens != 0 and pooling is None
        tokens = self._check(prompt, room=1 if generates else 0)
        chosen = self._adapter(adapter)
        _check_sampling(sampling, self.vocabulary, least=0 if scoring or pooling else 1)
        if scoring is not None:
            _check_scoring(scoring, len(tokens), self.vocabulary)
        limit = sampling.limit(len(tokens), self.context)
        stops = frozenset(sampling.stop_token_ids) | (frozenset() if sampling.ignore_eos else self.eos_ids)
        seed = int.from_bytes(os.urandom(8)) >> 1 if sampling.seed is None else sampling.seed % 2**63
        request = next(self._ids)
        sequence = Sequence(request, tokens, len(tokens), sampling, seed, limit, stops)
        sequence.constraint = Guarded(constraint) if constraint is not None else None
        sequence.plain = constraint is None and takes_best(sampling)
        sequence.adapter, sequence.salt = chosen, self._salt(chosen) + salt
        sequence.scoring, sequence.generates = scoring, generates
        sequence.pooled = None if pooling is None else PromptVector(pooling)
        self.scheduler.add(sequence)
        return request

    def load_adapter(self, adapter: Adapter) -> int:
        """Make an adapter ready for requests, and name it. Raises `OutOfMemory` where there is no room."""
        return self.runner.adapters.load(adapter)

    def unload_adapter(self, adapter: int) -> None:
        """No new request can choose it; it is gone, pages and all, once the last that uses it ends."""
        self._adapter(adapter)
        self._leaving.add(adapter)
        self._let_adapters_go()

    def step(self) -> list[Event]:
        """One step of the model for everything that is running."""
        self.steps += 1
        plan = sorted(self.scheduler.schedule(), key=_by_adapter)
        self.runner.copy(self.scheduler.copies)
        self.scheduler.copies.clear()
        try:
            tokens = self.runner.run(plan) if plan else []
        except WeightsError as error:  # an expert could not be read: what needed it ends, all else goes on
            events = self._fail(plan, str(error))
        else:
            events = self.scheduler.postprocess(plan, tokens)
        self._let_adapters_go()
        version = self.weights_version
        return [replace(event, weights_version=version) for event in events] if version else events

    def _fail(self, plan: list[Span], why: str) -> list[Event]:
        for span in plan:
            self.scheduler.abort(span.sequence.id)
        return [
            Event(span.sequence.id, None, "error", why, span.sequence.cached_tokens or 0) for span in plan
        ]

    def update_weights(self, values: NewValues) -> int:
        """Write new values over some or all of the weights; returns the version that they make.

        What runs goes on with the new weights over the keys and values that it has; nothing that the old ones
        computed is found again. An update that is refused has changed nothing.
        """
        self.runner.update(values)
        self.pool.forget()
        self.weights_version += 1
        return self.weights_version

    @property
    def counters(self) -> Counters:
        """What the cache and the drafts have been good for since the start."""
        return self.scheduler.counters

    def abort(self, request: int) -> bool:
        """Forget a request; its pages are free before the next step."""
        known = self.scheduler.abort(request)
        self._let_adapters_go()
        return known

    @property
    def idle(self) -> bool:
        """No request is waiting or running."""
        return self.scheduler.idle

    def stream(
        self, prompt: Seq[int], sampling: SamplingParams, *, constraint: Constraint | None = None
    ) -> Iterator[Event]:
        """One request alone; closing the iterator aborts it."""
        request = self.add(prompt, sampling, constraint=constraint)
        try:
            while True:
                for event in self.step():
                    if event.request == request:
                        yield event
                        if event.finish_reason is not None:
                            return
        finally:
            self.abort(request)

    def score(self, ids: Seq[int], *, adapter: int | None = None) -> npt.NDArray[np.float64]:
        """Natural-log probability of each of ids[1:] after what precedes it; one request alone."""
        nothing = SamplingParams(max_tokens=0)
        request = self.add(ids, nothing, adapter=adapter, scoring=Scoring())
        logprobs: list[float] = []
        try:
            while True:
                for event in (event for event in self.step() if event.request == request):
                    if event.error is not None:
                        raise RequestError(event.error)
                    logprobs += [score.logprob for score in event.scores]
                    if event.finish_reason is not None:
                        return np.array(logprobs, np.float64)
        finally:
            self.abort(request)

    def _check_kind(self, pooling: Pooling | None) -> None:
        gives = self.runner.executable.outputs
        if pooling is None and LOGITS not in gives:
            raise RequestError("this is an embedding model: it gives vectors, no text and no scores")
        if pooling is not None and HIDDEN not in gives:
            raise RequestError("this is no embedding model: it gives text and scores")

    def _adapter(self, adapter: int | None) -> int:
        """The id of a loaded adapter, or 0 for none."""
        if adapter is None:
            return 0
        if adapter not in self.runner.adapters or adapter in self._leaving:
            raise RequestError(f"adapter {adapter} is not loaded: load it first")
        return adapter

    def _salt(self, adapter: int) -> bytes:
        """Of pages that the adapter and the weights as they are now compute."""
        version = self.weights_version
        return struct.pack("<qq", adapter, version) if adapter or version else b""

    def _let_adapters_go(self) -> None:
        """Free those that were unloaded and that nobody uses."""
        if self._leaving:
            used = {sequence.adapter for sequence in (*self.scheduler.running, *self.scheduler.waiting)}
            for adapter in self._leaving - used:
                self.runner.adapters.unload(adapter)
                self.pool.forget(self._salt(adapter))
            self._leaving &= used

    def _check(self, prompt: Seq[int], room: int) -> list[int]:
        """Its tokens; `room`: how many more the context must hold."""
        try:
            given = list(prompt)
        except TypeError:
            raise RequestError(f"the prompt is {quoted(prompt)}: give a list of token ids") from None
        odd = next((place for place, token in enumerate(given) if not _is_whole(token)), None)
        if odd is not None:
            raise RequestError(f"token {odd} of the prompt is {quoted(given[odd])}: give whole numbers")
        tokens = [int(t) for t in given]
        if not tokens:
            raise RequestError("the prompt is empty: give at least one token")
        if len(tokens) + room > self.context:
            raise ContextOverflow(len(tokens), self.context)
        wrong = next((t for t in tokens if not 0 <= t < self.vocabulary), None)
        if wrong is not None:
            raise RequestError(f"token id {quoted(wrong)} is outside the vocabulary of {self.vocabulary}")
        return tokens


def _is_whole(token: object) -> bool:
    return type(token) is int or (isinstance(token, Integral) and not isinstance(token, bool))


def _by_adapter(span: Span) -> int:
    return span.sequence.adapter  # rows of one lie together


def _check_sampling(p: SamplingParams, vocabulary: int, least: int) -> None:
    """Ranges as the OpenAI and Hugging Face interfaces define them."""
    limits = {
        "temperature": (0.0, 100.0),
        "top_k": (0, 2**31),
        "top_p": (0.0, 1.0),
        "min_p": (0.0, 1.0),
        "repetition_penalty": (1e-3, 100.0),
        "presence_penalty": (-2.0, 2.0),
        "frequency_penalty": (-2.0, 2.0),
        "max_tokens": (least, 2**31),
        "max_reasoning_tokens": (0, 2**31),
        "min_tokens": (0, 2**31),
        "max_length": (1, 2**31),
        "forced_bos_token_id": (0, vocabulary - 1),
        "logprobs": (0, vocabulary),
    }
    for name, (low, high) in limits.items():
        value = getattr(p, name)
        if value is not None and not low <= value <= high:
            raise RequestError(f"{name} is {quoted(value)}: it must lie between {low:g} and {high:g}")
    if p.tempered and p.temperature == 0:
        raise RequestError("tempered is True at temperature 0: there are no log-probabilities at that")
    for token, bias in p.logit_bias.items():
        if not -100 <= bias <= 100:
            raise RequestError(
                f"logit_bias of token {quoted(token)} is {quoted(bias)}: it must lie between -100 and 100"
            )
    words = [token for word in p.bad_words_ids for token in word]
    if not all(p.bad_words_ids):
        raise RequestError("bad_words_ids has an empty list: it would forbid every token")
    words += [*p.suppress_tokens, *p.begin_suppress_tokens, *p.forced_eos_token_ids]
    for token in [*p.logit_bias, *p.stop_token_ids, *words]:
        if not 0 <= token < vocabulary:
            raise RequestError(f"token id {quoted(token)} is outside the vocabulary of {vocabulary}")


def _check_scoring(s: Scoring, tokens: int, vocabulary: int) -> None:
    if not (_is_whole(s.start) and 0 <= s.start < max(tokens, 1)):
        raise RequestError(f"start is {quoted(s.start)}: the text has {tokens} tokens, from 0 on")
    if not (_is_whole(s.top) and 0 <= s.top <= vocabulary):
        raise RequestError(f"top is {quoted(s.top)}: give a whole number from 0 to {vocabulary}")
    if not 0.0 < s.temperature <= 100.0:
        raise RequestError(f"temperature is {quoted(s.temperature)}: it must lie above 0, up to 100")

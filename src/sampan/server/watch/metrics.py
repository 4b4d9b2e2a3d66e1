"""Prometheus metrics: numbers only, no keys and no text.

Names, labels and bucket bounds are those of vLLM's version 1 engine (docs.vllm.ai, "Production Metrics"), so
that its dashboards work here; what has no such name begins with `sampan:`. While requests run, only numbers
are added up here; `state.py` reads the rest when somebody asks.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sampan.server.fields import Ignored


def _bounds(text: str) -> tuple[float, ...]:
    return tuple(float(bound) for bound in text.split())


_FIRST_TOKEN = _bounds(
    "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 20 40 80 160 640 2560"
)
_PER_TOKEN = _bounds("0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1 2.5 5 7.5 10 20 40 80")
_LATENCY = _bounds("0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680")
_TOKENS = tuple(float(mantissa * 10**power) for power in range(6) for mantissa in (1, 2, 5))
_ANSWERS = (1.0, 2.0, 5.0, 10.0, 20.0)
_OLDER = {"inter_token_latency_seconds": "time_per_output_token_seconds"}
_REASONS = ("stop", "length", "tool_calls")


@dataclass
class Counts:
    """Of this process, since its start. Keys: finish reason; (kind, status); (method, route, status); for
    `ignored`, a field."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generation_tokens: int = 0
    requests: int = 0
    aborted: int = 0
    finished: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(_REASONS, 0)))
    errors: Counter[tuple[str, int]] = field(default_factory=Counter)
    responses: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)


class Rate:
    """Events a second over the last whole seconds."""

    _SECONDS = 5

    def __init__(self) -> None:
        self._second = 0
        self._counts = [0] * (self._SECONDS + 1)

    def add(self, count: int, now: float) -> None:
        """So many more, at `now` on the monotonic clock."""
        self._turn(int(now))
        self._counts[self._second % len(self._counts)] += count

    def at(self, now: float) -> float:
        """The rate, without the second that has only begun."""
        self._turn(int(now))
        begun = self._counts[self._second % len(self._counts)]
        return (sum(self._counts) - begun) / self._SECONDS

    def _turn(self, second: int) -> None:
        for gone in range(max(self._second, second - len(self._counts)) + 1, second + 1):
            self._counts[gone % len(self._counts)] = 0
        self._second = max(self._second, second)


class Metrics:
    """What is counted as requests come and go, and the registry that shows it."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self.counts = Counts()
        self.tokens = Rate()
        self.model = model
        seconds = self._seconds
        self.first_token = seconds("time_to_first_token", "Request to first token.", _FIRST_TOKEN)
        self.between_tokens = seconds("inter_token_latency", "Token to token.", _PER_TOKEN)
        self.per_token = seconds("request_time_per_output_token", "Mean of a request's.", _PER_TOKEN)
        self.whole = seconds("e2e_request_latency", "Request to last token.", _LATENCY)
        self.queued = seconds("request_queue_time", "Waiting for the engine.", _LATENCY)
        self.inference = seconds("request_inference_time", "In the engine.", _LATENCY)
        self.prefill = seconds("request_prefill_time", "In the engine until the first token.", _LATENCY)
        self.decode = seconds("request_decode_time", "First token to last.", _LATENCY)
        self.prompt = self._sized("request_prompt_tokens", "Tokens of a prompt.", _TOKENS)
        self.generated = self._sized("request_generation_tokens", "Tokens of an answer.", _TOKENS)
        self.limit = self._sized("request_params_max_tokens", "Tokens asked for at most.", _TOKENS)
        self.answers = self._sized("request_params_n", "Answers asked for.", _ANSWERS)

    def ended(
        self, method: str, route: str, status: int, error: str | None, ignored: Iterable[Ignored]
    ) -> None:
        """Count an HTTP request. Fields by name only where the name is ours: of others there is no end."""
        method = method if method in _METHODS else "other"
        self.counts.responses[method, route, status] += 1
        if error is not None and error != "client_closed_request":
            self.counts.errors[error, status] += 1
        self.counts.ignored.update({field.name if field.known else "other" for field in ignored})

    def _seconds(self, name: str, text: str, bounds: Sequence[float]) -> Histogram:
        return self._sized(f"{name}_seconds", f"{text} In seconds.", bounds)

    def _sized(self, name: str, text: str, bounds: Sequence[float]) -> Histogram:
        labels = ("model_name", "engine")
        made = Histogram(f"vllm:{name}", text, labels, registry=self.registry, buckets=bounds)
        if name in _OLDER:
            self.registry.register(_Alias(made, f"vllm:{name}", f"vllm:{_OLDER[name]}"))
        return made.labels(self.model, "0")


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class _Alias(Collector):
    """A metric under a name that older dashboards know."""

    def __init__(self, named: Histogram, name: str, alias: str) -> None:
        self._named = named
        self._names = name, alias

    def describe(self) -> Iterable[Metric]:
        return [Metric(self._names[1], "", "histogram")]

    def collect(self) -> Iterator[Metric]:
        for metric in self._named.collect():
            same = Metric(self._names[1], metric.documentation, metric.type)
            same.samples = [each._replace(name=each.name.replace(*self._names)) for each in metric.samples]
            yield same

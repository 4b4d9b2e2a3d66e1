"""What a service and its engine say about themselves when metrics are asked for."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sampan.core.memory import resident_memory
from sampan.server.admission import Admission
from sampan.server.dispatch import Dispatcher
from sampan.server.process.supervisor import Supervisor
from sampan.server.settings import ServeSettings
from sampan.server.text import ModelText
from sampan.server.watch.energy import Meter
from sampan.server.watch.metrics import Metrics


class Watched(Protocol):
    """What is looked at of a service."""

    settings: ServeSettings
    supervisor: Supervisor
    dispatcher: Dispatcher
    admission: Admission
    text: ModelText


@dataclass(frozen=True)
class Load:
    """A service now. `cache_used`, `prefix_hit_rate`: parts of 1.

    `prefix_hit_rate` is None before anything was looked up.
    """

    running: int
    waiting: int
    cache_used: float
    prefix_hit_rate: float | None

    @classmethod
    def of(cls, service: Watched) -> "Load":
        """As its engine last said."""
        beat, ready = service.supervisor.beat, service.supervisor.ready
        load = cls(service.supervisor.running, service.dispatcher.waiting, 0.0, None)
        if beat is None or ready is None:
            return load
        return replace(
            load,
            running=max(0, load.running - beat.waiting),
            waiting=load.waiting + beat.waiting,
            cache_used=beat.pages_used / ready.pages,
            prefix_hit_rate=beat.found / beat.looked_up if beat.looked_up else None,
        )


class State(Collector):
    """Collects them, with what `metrics` has counted."""

    def __init__(self, metrics: Metrics, meter: Meter, service: Watched) -> None:
        self._metrics, self._meter = metrics, meter
        self._service = service

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._load()
        yield from self._cache()
        yield from self._experts()
        yield from self._tokens()
        yield from self._requests()
        yield from self._process()
        yield from self._cost()

    def _load(self) -> Iterator[Metric]:
        load = Load.of(self._service)
        yield self._gauge("vllm:num_requests_running", "Requests that the engine computes.", load.running)
        yield self._gauge("vllm:num_requests_waiting", "Requests that wait for their turn.", load.waiting)
        yield self._gauge("vllm:kv_cache_usage_perc", "Part of the cache in use, 1 is all.", load.cache_used)
        dispatcher = self._service.dispatcher
        yield self._gauge("sampan:slots", "Requests that the engine takes at once.", dispatcher.slots)
        yield self._gauge("sampan:slots_free", "Those that no request holds.", dispatcher.free)
        yield self._counter(
            "sampan:queue_unstuck", "Times that work waited beside free slots.", dispatcher.unstuck
        )

    def _cache(self) -> Iterator[Metric]:
        beat, ready = self._service.supervisor.beat, self._service.supervisor.ready
        asked, found = (0, 0) if beat is None else (beat.looked_up, beat.found)
        drafted, accepted = (0, 0) if beat is None else (beat.drafted, beat.accepted)
        counter = self._counter
        yield counter("vllm:prefix_cache_queries", "Tokens that were looked up in the cache.", asked)
        yield counter("vllm:prefix_cache_hits", "Those that were there.", found)
        yield counter("vllm:spec_decode_num_draft_tokens", "Tokens drafted.", drafted)
        yield counter("vllm:spec_decode_num_accepted_tokens", "Drafted tokens that held.", accepted)
        yield from self._depths({} if beat is None else beat.depths)
        preempted = 0 if beat is None else beat.preempted
        yield counter("vllm:num_preemptions", "Requests put back for want of cache.", preempted)
        info = self._family(
            GaugeMetricFamily, "vllm:cache_config_info", "The cache.", "block_size", "num_gpu_blocks"
        )
        if ready is not None:
            info.add_metric([*self._who, str(ready.page_tokens), str(ready.pages)], 1)
        yield info

    def _experts(self) -> Iterator[Metric]:
        """Of experts on disk; nothing where none stay there."""
        beat = self._service.supervisor.beat
        if beat is None or beat.experts is None:
            return
        reads, counter = beat.experts, self._counter
        yield self._gauge("sampan:expert_slots", "Experts that are in memory at once.", reads.slots)
        yield counter("sampan:expert_uses", "Uses of an expert by a layer of a step.", reads.asked)
        yield counter("sampan:expert_hits", "Those whose expert was in memory.", reads.found)
        yield counter("sampan:expert_reads", "Experts read from disk.", reads.reads)
        yield counter("sampan:expert_reads_ahead", "Those read before they were asked for.", reads.read_ahead)
        yield counter("sampan:expert_reads_ahead_used", "Those then asked for.", reads.read_ahead_used)
        yield counter("sampan:expert_read_bytes", "Bytes read from disk.", reads.bytes_read)
        yield counter("sampan:expert_tokens", "Tokens that went through the model.", reads.tokens)
        yield counter("sampan:expert_wait_seconds", "Time that steps waited for reads.", reads.waited_s)
        if reads.hit_rate is not None and reads.bytes_per_token is not None:
            text = "Part of the uses, 1 is all."
            yield self._gauge("sampan:expert_hit_rate", text, reads.hit_rate)
            yield self._gauge("sampan:expert_bytes_per_token", "Bytes read.", reads.bytes_per_token)

    def _depths(self, depths: Mapping[str, Sequence[tuple[int, int]]]) -> Iterator[Metric]:
        """Tokens of drafts by who drafted and their place, 1 behind the sequence's own."""
        labels = "drafter", "depth"
        drafted = self._family(CounterMetricFamily, "sampan:draft_tokens", "Drafted, by depth.", *labels)
        held = self._family(CounterMetricFamily, "sampan:draft_tokens_accepted", "Those that held.", *labels)
        for drafter, rows in depths.items():
            for depth, (tokens, accepted) in enumerate(rows, 1):
                drafted.add_metric([*self._who, drafter, str(depth)], tokens)
                held.add_metric([*self._who, drafter, str(depth)], accepted)
        yield drafted
        yield held

    def _tokens(self) -> Iterator[Metric]:
        counts = self._metrics.counts
        yield self._counter("vllm:prompt_tokens", "Tokens of prompts, cached ones too.", counts.prompt_tokens)
        yield self._counter("vllm:prompt_tokens_cached", "Those not computed again.", counts.cached_tokens)
        yield self._counter("vllm:generation_tokens", "Tokens of answers.", counts.generation_tokens)

    def _requests(self) -> Iterator[Metric]:
        counts = self._metrics.counts
        finished = self._family(CounterMetricFamily, "vllm:request_success", "Answers.", "finished_reason")
        for reason, number in counts.finished.items():
            finished.add_metric([*self._who, reason], number)
        yield finished
        yield self._counter("sampan:requests_aborted", "Left by their clients.", counts.aborted)
        errors = self._family(CounterMetricFamily, "sampan:errors", "By kind.", "kind", "status")
        for (kind, status), number in counts.errors.items():
            errors.add_metric([*self._who, kind, str(status)], number)
        yield errors
        name, labels = "sampan:http_requests", ("method", "route", "status")
        responses = self._family(CounterMetricFamily, name, "HTTP requests.", *labels)
        for (method, route, status), number in counts.responses.items():
            responses.add_metric([*self._who, method, route, str(status)], number)
        yield responses
        name = "sampan:ignored_fields"
        ignored = self._family(CounterMetricFamily, name, "Requests with a field passed over.", "field")
        for field, number in counts.ignored.items():
            ignored.add_metric([*self._who, field], number)
        yield ignored

    def _process(self) -> Iterator[Metric]:
        supervisor = self._service.supervisor
        beat = supervisor.beat
        yield self._gauge("sampan:engine_up", "Whether the engine is ready.", supervisor.ready is not None)
        yield self._counter("sampan:engine_restarts", "Of its process.", supervisor.restarts)
        yield self._counter(
            "sampan:engine_steps", "Of this engine process.", 0 if beat is None else beat.steps
        )
        resident = self._family(GaugeMetricFamily, "sampan:resident_memory_bytes", "In memory.", "process")
        resident.add_metric([*self._who, "api"], resident_memory())
        resident.add_metric([*self._who, "engine"], 0 if beat is None else beat.resident_bytes)
        yield resident
        ledger = self._service.admission.ledger.health
        yield self._gauge("sampan:ledger_healthy", "Whether its last write went well.", ledger.healthy)
        yield self._gauge("sampan:ledger_unsaved_rows", "Rows in memory only.", ledger.unsaved_rows)
        yield self._counter("sampan:ledger_failures", "Writes that failed.", ledger.failures)
        yield self._counter("sampan:ledger_lost_requests", "Usage that found no room.", ledger.lost)

    def _cost(self) -> Iterator[Metric]:
        meter = self._meter
        meter.look(time.monotonic())
        yield self._counter("sampan:busy_seconds", "Time with requests in the engine.", meter.busy_s)
        yield self._counter("sampan:energy_joules", "Energy of that time, where reported.", meter.joules)
        price = self._service.settings.price_per_hour
        cost = None if price is None else meter.busy_s / 3600 * price
        yield self._counter("sampan:machine_cost_usd", "What that time cost, where a price is set.", cost)

    @property
    def _who(self) -> list[str]:
        return [self._metrics.model, "0"]

    def _gauge(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        family: GaugeMetricFamily = self._family(GaugeMetricFamily, name, text)
        family.add_metric(self._who, value)
        return family

    def _counter(self, name: str, text: str, value: float | None) -> CounterMetricFamily:
        family: CounterMetricFamily = self._family(CounterMetricFamily, name, text)
        if value is not None:
            family.add_metric(self._who, value)
        return family

    def _family(self, kind: Any, name: str, text: str, *labels: str) -> Any:
        return kind(name, text, labels=["model_name", "engine", *labels])

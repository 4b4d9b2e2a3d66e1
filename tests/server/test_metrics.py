"""`/metrics`: what a dashboard made for vLLM, our own dashboard, and the page's load tab are promised."""

import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sampan.server.watch.metrics import Rate

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana.json"
OURS = {"engine": "0", "model_name": "smollm2-135m"}

# What the dashboards in vLLM's repository query, and older ones.
HISTOGRAMS = [
    *("e2e_request_latency_seconds", "time_to_first_token_seconds", "inter_token_latency_seconds"),
    *("time_per_output_token_seconds", "request_time_per_output_token_seconds", "request_queue_time_seconds"),
    *("request_prefill_time_seconds", "request_decode_time_seconds", "request_inference_time_seconds"),
    *("request_prompt_tokens", "request_generation_tokens", "request_params_max_tokens", "request_params_n"),
]
NUMBERS = [
    *("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "cache_config_info"),
    *("prefix_cache_queries_total", "prefix_cache_hits_total", "num_preemptions_total"),
    *("spec_decode_num_draft_tokens_total", "spec_decode_num_accepted_tokens_total"),
    *("prompt_tokens_total", "generation_tokens_total", "request_success_total"),
]
VLLM = {f"vllm:{name}{end}" for name in HISTOGRAMS for end in ("_bucket", "_sum", "_count")}
VLLM |= {f"vllm:{name}" for name in NUMBERS}


class Metrics:
    """The samples of one scrape."""

    def __init__(self, url: str) -> None:
        response = httpx.get(f"{url}/metrics")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        families = list(text_string_to_metric_families(response.text))
        self.samples = [sample for family in families for sample in family.samples]
        self.names = {sample.name for sample in self.samples}

    def __call__(self, name: str, **labels: str) -> float:
        wanted = labels.items()
        return sum(s.value for s in self.samples if s.name == name and wanted <= s.labels.items())


@pytest.fixture
def scrape(service: Any) -> Callable[[], Metrics]:
    return lambda: Metrics(service.url)


def answer(service: Any, **options: Any) -> Any:
    messages = [{"role": "user", "content": "Name a colour."}]
    return service.openai.chat.completions.create(
        model=service.model, messages=messages, max_tokens=8, temperature=0, **options
    )


def test_a_request_is_counted_once_and_right(service: Any, scrape: Callable[[], Metrics]) -> None:
    before = scrape()
    usage = answer(service, n=2, seed=1).usage
    after = scrape()

    def grown(name: str, **labels: str) -> float:
        return after(name, **OURS, **labels) - before(name, **OURS, **labels)

    assert grown("vllm:prompt_tokens_total") == usage.prompt_tokens
    assert grown("vllm:generation_tokens_total") == usage.completion_tokens
    assert grown("vllm:request_success_total") == 2
    assert grown("vllm:time_to_first_token_seconds_count") == 2
    assert grown("vllm:time_to_first_token_seconds_bucket", le="+Inf") == 2
    assert grown("vllm:inter_token_latency_seconds_count") == usage.completion_tokens - 2
    assert grown("vllm:e2e_request_latency_seconds_count") == 2
    assert grown("vllm:request_queue_time_seconds_count") == 2
    assert grown("vllm:request_prompt_tokens_sum") == usage.prompt_tokens
    assert grown("vllm:request_generation_tokens_sum") == usage.completion_tokens
    assert grown("vllm:request_params_max_tokens_sum") == 16
    assert grown("vllm:request_params_n_sum") == 2
    assert grown("sampan:requests_aborted_total") == 0
    assert grown("sampan:errors_total") == 0
    route = {"route": "/v1/chat/completions", "method": "POST", "status": "200"}
    assert grown("sampan:http_requests_total", **route) == 1


def test_times_of_a_request_fit_together(service: Any, scrape: Callable[[], Metrics]) -> None:
    before, started = scrape(), time.monotonic()
    answer(service)
    took, after = time.monotonic() - started, scrape()

    def spent(name: str) -> float:
        return after(f"vllm:{name}_seconds_sum") - before(f"vllm:{name}_seconds_sum")

    parts = spent("request_queue_time") + spent("request_prefill_time") + spent("request_decode_time")
    assert parts == pytest.approx(spent("e2e_request_latency"), rel=1e-6)
    assert 0 < spent("time_to_first_token") < spent("e2e_request_latency") < took
    assert spent("inter_token_latency") == pytest.approx(spent("request_decode_time"))
    assert spent("time_per_output_token") == spent("inter_token_latency")
    busy = after("sampan:busy_seconds_total") - before("sampan:busy_seconds_total")
    assert busy == pytest.approx(spent("request_inference_time"), abs=0.05)


def test_dashboards_made_for_vllm_find_their_metrics(service: Any, scrape: Callable[[], Metrics]) -> None:
    answer(service)
    metrics = scrape()
    assert not VLLM - metrics.names
    for sample in metrics.samples:
        if sample.name in VLLM:
            assert sample.labels["model_name"] == service.model
    assert {s.labels["finished_reason"] for s in metrics.samples if "request_success_total" in s.name} >= {
        "stop",
        "length",
    }


def queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def test_our_dashboard_asks_for_nothing_that_is_not_there(
    service: Any, scrape: Callable[[], Metrics]
) -> None:
    answer(service)
    httpx.get(f"{service.url}/nowhere")
    asked = {name for query in queries() for name in re.findall(r"\b(?:vllm|sampan):\w+", query)}
    assert len(asked) > 25
    optional = {"sampan:energy_joules_total", "sampan:machine_cost_usd_total"}  # where reported, where set
    assert asked - optional <= scrape().names
    described = httpx.get(f"{service.url}/metrics").text
    for name in optional:
        assert f"# TYPE {name} counter" in described


def test_our_dashboard_can_be_imported() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {"datasource", "model"}
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert all(x < 24 for x, _ in cells)
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["targets"]
    for query in queries():
        assert query.count("(") == query.count(")")
        assert 'model_name=~"$model"' in query


@pytest.mark.parametrize(
    ("path", "body", "kind", "status"),
    [
        ("/v1/chat/completions", {"model": "no-such"}, "model_not_found", "404"),
        ("/v1/chat/completions", {"min_tokens": 1}, "unsupported_field", "400"),
        ("/nowhere", None, "invalid_request_error", "404"),
    ],
)
def test_errors_are_counted_by_kind(
    service: Any, scrape: Callable[[], Metrics], path: str, body: Any, kind: str, status: str
) -> None:
    whole = {"model": service.model, "messages": [{"role": "user", "content": "x"}], **(body or {})}
    before = scrape()
    assert httpx.post(service.url + path, json=whole).status_code == int(status)
    after, name = scrape(), "sampan:errors_total"
    assert after(name, kind=kind, status=status) - before(name, kind=kind, status=status) == 1
    assert after(name) - before(name) == 1


def test_a_client_that_leaves_is_counted_and_what_it_got_is_too(
    service: Any, scrape: Callable[[], Metrics]
) -> None:
    before = scrape()
    with service.openai.chat.completions.create(
        model=service.model,
        messages=[{"role": "user", "content": "Count from one to a thousand."}],
        max_tokens=400,
        stream=True,
        extra_body={"ignore_eos": True},
    ) as stream:
        for _, _ in zip(range(5), stream, strict=False):
            pass
    name = "sampan:requests_aborted_total"
    assert service.wait(lambda: scrape()(name) == before(name) + 1, 10)
    after = scrape()
    assert after("sampan:errors_total") == before("sampan:errors_total")
    assert 4 <= after("vllm:generation_tokens_total") - before("vllm:generation_tokens_total") < 400
    assert after("vllm:request_success_total") == before("vllm:request_success_total")
    assert service.wait(lambda: scrape()("vllm:num_requests_running") == 0, 10)


def test_what_clients_invent_makes_no_new_series(service: Any, scrape: Callable[[], Metrics]) -> None:
    httpx.get(f"{service.url}/first")
    httpx.request("BREW", f"{service.url}/pot")
    before = len(scrape().samples)
    for number in range(10):
        httpx.get(f"{service.url}/invented/{number}")
        httpx.request(f"M{number}", f"{service.url}/health")
        with suppress(openai.NotFoundError):
            service.openai.models.retrieve(f"model-{number}")
    samples = scrape().samples
    assert len(samples) <= before + 5  # /health and /v1/models/… with one status more each, at most
    assert not [
        sample for sample in samples if "invented" in str(sample.labels) or "M3" in str(sample.labels)
    ]


def test_the_engine_and_the_ledger_show_how_they_are(service: Any, scrape: Callable[[], Metrics]) -> None:
    answer(service)
    metrics = scrape()
    assert metrics("sampan:engine_up") == 1
    assert metrics("sampan:ledger_healthy") == 1
    assert metrics("sampan:ledger_lost_requests_total") == 0
    for process in ("api", "engine"):
        assert metrics("sampan:resident_memory_bytes", process=process) > 20e6
    assert service.wait(lambda: scrape()("sampan:engine_steps_total") > 0, 10)


def test_a_prompt_that_was_there_hits_the_cache(service: Any, scrape: Callable[[], Metrics]) -> None:
    prompt = "The quick brown fox jumps over the lazy dog. " * 30
    before = scrape()
    counts = []
    for _ in range(2):
        usage = service.openai.completions.create(model=service.model, prompt=prompt, max_tokens=1).usage
        counts.append(usage.prompt_tokens_details.cached_tokens)
    name = "vllm:prompt_tokens_cached_total"
    assert counts[1] > 100
    assert scrape()(name) - before(name) == sum(counts)
    name = "vllm:prefix_cache_hits_total"
    assert service.wait(lambda: scrape()(name) - before(name) >= counts[1], 10)
    assert scrape()("vllm:prefix_cache_queries_total") >= scrape()(name)


def test_the_load_tab_has_its_numbers(service: Any) -> None:
    before = httpx.get(f"{service.url}/page/live").json()
    usage = answer(service).usage
    now = httpx.get(f"{service.url}/page/live").json()
    assert now["requests"] == before["requests"] + 1
    assert now["cost"]["completion_tokens"] - before["cost"]["completion_tokens"] == usage.completion_tokens
    assert now["cost"]["prompt_tokens"] - before["cost"]["prompt_tokens"] == usage.prompt_tokens
    assert now["uptime_s"] > before["uptime_s"]
    assert now["cost"]["machine_seconds"] > before["cost"]["machine_seconds"]
    assert 0 <= now["cache_used"] <= 1
    assert (now["running"], now["waiting"]) == (0, 0)
    assert now["cost"]["cost"]["machine_usd"] is None  # no price per hour is set
    assert service.wait(lambda: httpx.get(f"{service.url}/page/live").json()["tokens_per_second"] > 0, 10)


def test_a_rate_is_that_of_the_last_seconds() -> None:
    rate = Rate()
    for moment in range(100, 110):
        rate.add(30, moment + 0.5)
    assert rate.at(110.0) == 30
    assert rate.at(113.2) == 12  # of five seconds, three without
    assert rate.at(200) == 0
    rate.add(50, 200.1)
    assert rate.at(200.9) == 0  # that second has only begun
    assert rate.at(201) == 10

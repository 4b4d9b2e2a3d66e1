"""`/v1/usage`: what a key used, and what it cost here and would have cost elsewhere."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sampan.server.reports.prices import PRICES, Price
from sampan.server.storage.key_file import FileKeys
from sampan.server.storage.keys import digest, generate

TOKENS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "total_tokens")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("usage")


@pytest.fixture(scope="module")
def keys(folder: Path) -> dict[str, tuple[str, str]]:
    """Id, and what a client presents."""
    book, made = FileKeys(folder / "keys", create=True), {}
    for name in ("anna", "bert"):
        key, presented = generate(name)
        book.add(key, digest(presented))
        made[name] = key.id, presented
    return made


@pytest.fixture(scope="module")
def start(serve: Callable[..., Any], folder: Path, keys: Any) -> Callable[[], Any]:  # noqa: ARG001
    options = ["--api-key-file", f"{folder / 'keys'}", "--database", f"sqlite:///{folder / 'usage.db'}"]
    return lambda: serve(*options, "--price-per-hour", "3.6")


@pytest.fixture(scope="module")
def before(start: Callable[[], Any], keys: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """What a service that has ended by now said of Anna's two requests and of Bert's none."""
    (_, hers), (_, his) = keys["anna"], keys["bert"]
    with start() as service:
        answers = [ask(service, hers), ask(service, hers)]
        return {"answers": answers, "anna": usage(service.url, hers), "bert": usage(service.url, his)}


@pytest.fixture(scope="module")
def running(start: Callable[[], Any], before: dict[str, Any]) -> Iterator[Any]:  # noqa: ARG001
    with start() as service:
        yield service


def usage(url: str, presented: str, **query: str) -> dict[str, Any]:
    response = httpx.get(f"{url}/v1/usage", params=query, headers={"authorization": f"Bearer {presented}"})
    assert response.status_code == 200, response.text
    report: dict[str, Any] = response.json()
    return report


def ask(service: Any, presented: str, prompt: str = "Say hello. " * 60) -> dict[str, int]:
    response = httpx.post(
        f"{service.url}/v1/completions",
        json={"model": service.model, "prompt": prompt, "max_tokens": 8, "temperature": 0},
        headers={"authorization": f"Bearer {presented}"},
        timeout=60,
    )
    used: dict[str, int] = response.json()["usage"]
    return used


def test_each_key_sees_its_own_use(before: dict[str, Any], keys: dict[str, tuple[str, str]]) -> None:
    answers, report = before["answers"], before["anna"]
    total = report["total"]
    assert report["key"] == keys["anna"][0]
    assert total["requests"] == 2
    assert total["prompt_tokens"] == sum(each["prompt_tokens"] for each in answers)
    assert total["completion_tokens"] == sum(each["completion_tokens"] for each in answers)
    assert total["cached_tokens"] == answers[1]["prompt_tokens_details"]["cached_tokens"] > 0
    assert total["total_tokens"] == total["prompt_tokens"] + total["completion_tokens"]
    assert report["models"] == [{"model": "smollm2-135m", **total}]
    assert before["bert"]["key"] == keys["bert"][0]
    assert before["bert"]["total"]["requests"] == 0


def test_use_outlives_the_service(
    running: Any, before: dict[str, Any], keys: dict[str, tuple[str, str]]
) -> None:
    total, again = before["anna"]["total"], usage(running.url, keys["anna"][1])["total"]
    assert [again[name] for name in TOKENS] == [total[name] for name in TOKENS]
    assert again["machine_seconds"] == total["machine_seconds"] > 0


def test_cost_follows_from_tokens_time_and_the_tables(running: Any, keys: dict[str, tuple[str, str]]) -> None:
    ask(running, keys["bert"][1])
    total = usage(running.url, keys["bert"][1])["total"]
    cost = total["cost"]
    assert cost["price_per_hour"] == 3.6
    assert cost["machine_usd"] == pytest.approx(total["machine_seconds"] * 0.001, abs=1e-6)
    assert len(cost["published"]) == len(PRICES) >= 5
    for row in cost["published"]:
        cached = row["input"] if row["cached"] is None else row["cached"]
        fresh = total["prompt_tokens"] - total["cached_tokens"]
        dollars = fresh * row["input"] + total["cached_tokens"] * cached
        dollars += total["completion_tokens"] * row["output"]
        assert row["usd"] == pytest.approx(dollars / 1e6)
        assert row["source"]
    # This machine may report no energy; then that is said, not guessed.
    assert total["joules"] is None or total["joules"] > 0


@pytest.mark.parametrize(
    ("query", "some"),
    [
        ({}, True),
        ({"since": "2020-01-01"}, True),
        ({"since": "2020-01-01T00:00:00Z", "until": "2120-01-01T00:00:00+02:00"}, True),
        ({"since": "1577836800", "until": "1577836801"}, False),
        ({"until": "2020-01-01"}, False),
        ({"since": "2120-01-01"}, False),
    ],
)
def test_a_stretch_of_time(
    running: Any, keys: dict[str, tuple[str, str]], query: dict[str, str], some: bool
) -> None:
    ask(running, keys["anna"][1])
    assert (usage(running.url, keys["anna"][1], **query)["total"]["requests"] > 0) is some


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"since": "yesterday"}, "since"),
        ({"until": "NaN"}, "until"),
        ({"since": "1e300"}, "since"),
        ({"since": "2025-02-02", "until": "2025-02-01"}, "until"),
    ],
)
def test_a_stretch_that_is_none(
    running: Any, keys: dict[str, tuple[str, str]], query: dict[str, str], field: str
) -> None:
    headers = {"authorization": f"Bearer {keys['anna'][1]}"}
    response = httpx.get(f"{running.url}/v1/usage", params=query, headers=headers)
    assert response.status_code == 400
    assert field in response.json()["error"]["param"]


@pytest.mark.parametrize("path", ["/v1/usage", "/page/live"])
def test_numbers_are_for_who_has_a_key(running: Any, path: str) -> None:
    assert httpx.get(running.url + path).status_code == 401
    assert httpx.get(running.url + path, headers={"x-api-key": "wrong"}).status_code == 401


def test_without_keys_it_is_everybodys_use(service: Any) -> None:
    before = httpx.get(f"{service.url}/v1/usage").json()
    service.openai.completions.create(model=service.model, prompt="Hello", max_tokens=1)
    after = httpx.get(f"{service.url}/v1/usage").json()
    assert after["key"] is None
    assert after["total"]["requests"] == before["total"]["requests"] + 1
    assert after["total"]["cost"]["machine_usd"] is None


def test_prices() -> None:
    price = Price("any", 2.0, 0.5, 10.0, "a test", None)
    assert price.of(1_000_000, 400_000, 100_000) == pytest.approx(1.2 + 0.2 + 1.0)
    flat = Price("any", 2.0, None, 10.0, "a test", None)
    assert flat.of(1_000_000, 400_000, 0) == pytest.approx(2.0)
    assert {price.model for price in PRICES} >= {"DeepSeek-V3", "DeepSeek-R1", "GPT-4o", "o1"}

"""Logs: one line an event, the request's id in it, and neither keys nor texts."""

import io
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from sampan.server.storage.key_file import FileKeys
from sampan.server.storage.keys import digest, generate
from sampan.server.watch.logs import Formatter, written

SECRET = "My aunt keeps 77 walruses in Reykjavik."


def line(style: str, message: str, **fields: object) -> str:
    record = logging.LogRecord("sampan.test", logging.INFO, "", 0, message, (), None)
    record.fields = fields
    return Formatter(style).format(record)


def seen(logs: list[str], wanted: str) -> str:
    """The line with this in it, which a thread may still be writing."""
    deadline = time.monotonic() + 10
    while not (found := [each for each in list(logs) if wanted in each]):
        assert time.monotonic() < deadline, f"{wanted} is not in:\n" + "".join(logs)
        time.sleep(0.02)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize("evil", ["a\nb", "a\r\nERROR forged", "\x1b[31m", "\u2028x", "\x00", "\ud800"])
def test_whatever_is_logged_stays_on_its_line(style: str, evil: str) -> None:
    for text in (line(style, evil), line(style, "fine", path=evil)):
        assert len(text.splitlines()) == 1
        assert text.isprintable()
        text.encode()
    if style == "json":
        assert json.loads(line(style, evil, path=evil))["path"] == evil


@pytest.mark.parametrize("style", ["text", "json"])
def test_an_exception_is_part_of_its_line(style: str) -> None:
    try:
        raise ValueError("broken\nsk-sampan-0123456789-abcdefghij")
    except ValueError as error:
        record = logging.LogRecord("sampan", logging.ERROR, "", 0, "failed", (), (ValueError, error, None))
    text = Formatter(style).format(record)
    assert len(text.splitlines()) == 1
    assert "ValueError: broken" in text
    assert "abcdefghij" not in text


@pytest.mark.parametrize("style", ["text", "json"])
def test_what_looks_like_a_key_is_not_written(style: str) -> None:
    _, key = generate("somebody")
    for text in (line(style, f"got {key}"), line(style, "x", path=f"/v1/{key}", header=f"Bearer {key}")):
        assert key not in text
        assert key.rpartition("-")[2] not in text
        assert "sk-..." in text
    assert "task-scheduling" in line(style, "task-scheduling goes on")


def test_fields_of_a_line() -> None:
    row = json.loads(line("json", "request", status=200, seconds=0.25, key=None))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row.pop("time"))
    assert row == {
        "level": "info",
        "logger": "sampan.test",
        "message": "request",
        "status": 200,
        "seconds": 0.25,
        "key": None,
    }
    assert line("text", "request", status=200, key=None, what="two words").endswith(
        'INFO    sampan.test: request status=200 what="two words"'
    )


def test_everything_logged_is_written_by_the_end() -> None:
    stream = io.StringIO()
    with written("json", stream):
        for number in range(500):
            logging.getLogger("sampan.test").info("line %d", number)
        logging.getLogger("uvicorn.error").info("from uvicorn")
        logging.getLogger("sqlalchemy.engine").info("not of interest")
        logging.getLogger("elsewhere").warning("of interest")
    rows = [json.loads(each) for each in stream.getvalue().splitlines()]
    assert [row["message"] for row in rows[:500]] == [f"line {number}" for number in range(500)]
    assert [(row["logger"], row["message"]) for row in rows[500:]] == [
        ("uvicorn", "from uvicorn"),
        ("elsewhere", "of interest"),
    ]


class _Failing(io.StringIO):
    """A stream that fails as often as there are failures."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__()
        self.failures = list(failures)

    def write(self, text: str) -> int:
        if self.failures:
            raise self.failures.pop(0)
        return super().write(text)


def test_a_stream_that_fails_gets_what_comes_later() -> None:
    stream = _Failing(OSError(28, "No space left"), ValueError("closed"), BrokenPipeError(), TypeError("odd"))
    log = logging.getLogger("sampan.test")
    with written("text", stream):
        while stream.failures:
            log.info("lost")
            time.sleep(0.01)
        log.info("heard")
    assert stream.getvalue().endswith("sampan.test: heard\n")


def test_without_stderr_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with written("text"):
        logging.getLogger("sampan.test").info("unheard")
        writer = next(each for each in threading.enumerate() if each.name == "sampan-logs")
        time.sleep(0.05)
        assert writer.is_alive()


def test_a_reader_that_has_stopped_holds_nothing_up() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader:
        started = time.monotonic()
        with os.fdopen(writing, "w", encoding="utf-8") as stream:
            with written("text", stream):
                for _ in range(12_000):  # the pipe takes some hundred, the queue ten thousand
                    logging.getLogger("sampan.test").info("x" * 400)
                assert time.monotonic() - started < 30
            reader.read1(1 << 20)
            os.set_blocking(reading, False)
            while b"lines were dropped" not in (part := reader.read1(1 << 20) or b""):
                assert part or time.monotonic() - started < 60


def test_a_full_disk_holds_nothing_up() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    stream = full.open("w")
    with written("text", stream):
        for _ in range(10):
            logging.getLogger("sampan.test").warning("x")
            time.sleep(0.01)  # so that the thread meets it more than once
    with suppress(OSError):
        stream.close()


def test_every_request_has_an_id_and_a_line(service: Any) -> None:
    response = httpx.get(f"{service.url}/v1/models")
    name = response.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", name)
    found = seen(service.logs, name)
    assert "method=GET path=/v1/models status=200 seconds=" in found
    assert httpx.get(f"{service.url}/v1/models").headers["x-request-id"] != name


@pytest.mark.parametrize("name", ["req_01-A.b:c", "550e8400-e29b-41d4-a716-446655440000"])
def test_a_sane_id_of_the_client_is_kept(service: Any, name: str) -> None:
    response = httpx.get(f"{service.url}/nowhere", headers={"x-request-id": name})
    assert response.headers.get_list("x-request-id") == [name]
    assert "status=404" in seen(service.logs, name)


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "-x", "é", "a=b", "sk-sampan-0123456789-abcdef"])
def test_another_id_is_not_taken(service: Any, name: str) -> None:
    response = httpx.get(f"{service.url}/nowhere", headers={"x-request-id": name.encode()})
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


def test_the_line_of_an_answer_says_what_it_took_and_not_what_it_said(service: Any) -> None:
    raw = service.openai.chat.completions.with_raw_response.create(
        model=service.model, messages=[{"role": "user", "content": SECRET}], max_tokens=4, temperature=0
    )
    completion = raw.parse()
    found = seen(service.logs, raw.headers["x-request-id"])
    for part in (
        "path=/v1/chat/completions status=200",
        f"prompt_tokens={completion.usage.prompt_tokens}",
        f"completion_tokens={completion.usage.completion_tokens}",
        "finish_reason=length",
        f"model={service.model}",
    ):
        assert part in found
    assert "walrus" not in "".join(service.logs)


def test_the_line_of_a_stream_comes_at_its_end(service: Any) -> None:
    def streamed(parts: int) -> str:
        with service.openai.completions.with_streaming_response.create(
            model=service.model,
            prompt="One, two,",
            max_tokens=200,
            stream=True,
            extra_body={"ignore_eos": True},
        ) as response:
            events = response.iter_lines()
            for _ in range(parts):
                next(events)
            if parts == 1:
                assert response.headers["x-request-id"] not in "".join(service.logs)
            else:
                list(events)
        return seen(service.logs, response.headers["x-request-id"])

    assert "finish_reason=length" in streamed(3)
    assert "finish_reason=abort" in streamed(1)


def test_an_error_names_its_kind_in_the_log(service: Any) -> None:
    body = {"model": "none", "messages": [{"role": "user", "content": SECRET}]}
    response = httpx.post(f"{service.url}/v1/chat/completions", json=body)
    assert "status=404" in (found := seen(service.logs, response.headers["x-request-id"]))
    assert "error=model_not_found" in found


def test_polling_does_not_fill_the_log(service: Any) -> None:
    for path in ("/health", "/ready", "/metrics", "/page/live"):
        name = f"poll{path.replace('/', '-')}"
        assert httpx.get(service.url + path, headers={"x-request-id": name}).headers["x-request-id"] == name
    seen(service.logs, httpx.get(f"{service.url}/nowhere").headers["x-request-id"])
    assert "poll-" not in "".join(service.logs)


@pytest.fixture(scope="module")
def keyed(
    serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, str, str]]:
    """A service with JSON logs, prompts in them, and a key: its id, and what a client presents."""
    folder = tmp_path_factory.mktemp("keyed")
    key, presented = generate("tester")
    FileKeys(folder / "keys", create=True).add(key, digest(presented))
    options = ["--api-key-file", f"{folder / 'keys'}", "--database", f"sqlite:///{folder / 'usage.db'}"]
    with serve(*options, "--log-format", "json", "--log-prompts") as running:
        yield running, key.id, presented


def test_json_lines_with_prompts_where_asked_for_and_never_a_key(keyed: tuple[Any, str, str]) -> None:
    running, id, presented = keyed
    body = {"model": running.model, "messages": [{"role": "user", "content": SECRET}], "max_tokens": 6}
    headers = {"authorization": f"Bearer {presented}"}
    ask = running.url + "/v1/chat/completions"
    response = httpx.post(ask, json=body, headers=headers, timeout=60)
    name = response.headers["x-request-id"]
    httpx.post(ask, json=body, headers={"x-api-key": f"{presented}x"})
    httpx.get(f"{running.url}/v1/models/{presented}?key={presented}", headers=headers)
    last = httpx.get(f"{running.url}/nowhere", headers={**headers, "x-request-id": presented})
    seen(running.logs, last.headers["x-request-id"])
    rows = [json.loads(each) for each in running.logs if each.startswith("{")]
    mine = {row["logger"]: row for row in rows if row.get("request_id") == name}
    assert SECRET in mine["sampan.prompts"]["prompt"]
    assert mine["sampan.prompts"]["answer"] == response.json()["choices"][0]["message"]["content"]
    assert mine["sampan.access"]["key"] == id
    assert mine["sampan.access"]["completion_tokens"] == response.json()["usage"]["completion_tokens"]
    refused = [row for row in rows if row.get("status") == 401]
    assert [row["error"] for row in refused] == ["invalid_api_key"]
    assert presented.rpartition("-")[2] not in "".join(running.logs)
    assert presented not in last.text


def test_an_error_within_a_stream_is_logged_and_counted(keyed: tuple[Any, str, str]) -> None:
    running, _, presented = keyed
    body = {"model": running.model, "prompt": "One,", "max_tokens": 2000, "stream": True, "ignore_eos": True}
    headers = {"authorization": f"Bearer {presented}"}
    ask = f"{running.url}/v1/completions"
    with httpx.stream("POST", ask, json=body, headers=headers, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        for child in psutil.Process(running.pid).children():
            child.kill()
        assert "engine_restarted" in "".join(lines)
    row = json.loads(seen(running.logs, '"error": "engine_restarted"'))
    assert (row["status"], row["request_id"]) == (200, response.headers["x-request-id"])
    metrics = httpx.get(f"{running.url}/metrics").text
    labels = f'engine="0",kind="engine_restarted",model_name="{running.model}",status="200"'
    assert f"sampan:errors_total{{{labels}}} 1.0" in metrics
    assert 'sampan:engine_restarts_total{engine="0",model_name="smollm2-135m"} 1.0' in metrics

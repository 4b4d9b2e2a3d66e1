"""What a service must survive: its engine dying or hanging, a signal, bodies that are none, a full queue."""

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import openai
import psutil
import pytest

from sampan.core.types import ModelFiles

if TYPE_CHECKING:
    from conftest import Running, Serve

LONG: Any = {
    "messages": [{"role": "user", "content": "Write a long story about a river."}],
    "max_tokens": 400,
    "temperature": 0,
    "ignore_eos": True,
}


def _ask(running: "Running", **changes: Any) -> httpx.Response:
    body = {"model": running.model, **LONG, **changes}
    return httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=60)


def test_a_killed_engine_is_back_and_every_client_is_answered(serve: "Serve") -> None:
    with serve() as running, ThreadPoolExecutor(16) as clients:
        assert running.answers()
        streams = [clients.submit(_stream_to_the_end, running) for _ in range(8)]
        whole = [clients.submit(_ask, running) for _ in range(8)]
        assert running.wait(lambda: running.metric("vllm:num_requests_running") == 16, 20)
        running.engine.kill()
        killed = time.monotonic()
        assert running.wait(running.answers, 20)
        assert time.monotonic() - killed < 5
        for stream in streams:
            assert "engine was restarted" in stream.result(timeout=30)
        for answer in whole:
            assert answer.result(timeout=30).status_code == 503
            assert "retry-after" in answer.result().headers
        assert httpx.get(f"{running.url}/health").json()["restarts"] == 1


def _stream_to_the_end(running: "Running") -> str:
    """The error that the official client raises in the middle of a stream."""
    try:
        for _ in running.openai.chat.completions.create(model=running.model, **_standard(), stream=True):
            pass
    except openai.APIError as error:
        return str(error)
    return "ended well"


def _standard() -> Any:
    return {**{k: v for k, v in LONG.items() if k != "ignore_eos"}, "extra_body": {"ignore_eos": True}}


def test_an_engine_that_never_starts_is_tried_less_and_less(
    serve: "Serve", default_model: ModelFiles, tmp_path: Path
) -> None:
    model = tmp_path / "model.gguf"
    shutil.copyfile(default_model.path, model)
    with serve(name=str(model)) as running:
        ask = {"model": model.stem, "prompt": "a", "max_tokens": 2}
        assert httpx.post(f"{running.url}/v1/completions", json=ask, timeout=60).status_code == 200
        model.rename(tmp_path / "elsewhere")
        running.engine.kill()
        time.sleep(6)
        health = httpx.get(f"{running.url}/health").json()
        assert health["engine"] == "starting"
        assert 2 <= health["restarts"] <= 7
        answer = httpx.post(f"{running.url}/v1/completions", json=ask, timeout=60)
        assert answer.status_code == 503
        assert "no such file" in answer.json()["error"]["message"].lower()
        (tmp_path / "elsewhere").rename(model)
        assert running.wait(lambda: httpx.get(f"{running.url}/ready").status_code == 200, 40)


def test_a_stalled_engine_is_restarted(serve: "Serve") -> None:
    with serve("--stall-seconds", "2") as running:
        assert running.answers()
        engine = running.engine
        with ThreadPoolExecutor(1) as clients:
            answer = clients.submit(_ask, running)
            time.sleep(0.3)
            engine.send_signal(signal.SIGSTOP)
            assert httpx.get(f"{running.url}/health", timeout=1).status_code == 200
            assert answer.result(timeout=20).status_code == 503
        assert running.wait(running.answers, 10)
        assert not engine.is_running()


def test_a_stopped_service_does_not_blame_its_engine(serve: "Serve") -> None:
    """A laptop that sleeps: no beat was heard for long, because nobody listened."""
    with serve("--stall-seconds", "1") as running:
        assert running.answers()
        os.kill(running.pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(running.pid, signal.SIGCONT)
        assert running.answers()
        time.sleep(1)
        assert httpx.get(f"{running.url}/health").json()["restarts"] == 0


def _gone(processes: list[psutil.Process]) -> bool:
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)


def test_no_process_outlives_its_service(serve: "Serve") -> None:
    with serve() as running:
        assert _ask(running, max_tokens=1).status_code == 200  # a process has read it
        others = psutil.Process(running.pid).children(recursive=True)
        assert len(others) >= 3
        running.process.kill()
        assert running.wait(lambda: _gone(others), 10)
        running.process.wait()
        running.process.returncode = 0  # it was we who killed it


def test_ready_follows_the_engine_at_once(serve: "Serve") -> None:
    with serve() as running:
        assert running.answers()
        for _ in range(5):
            running.engine.kill()
            killed = time.monotonic()
            assert running.wait(lambda: httpx.get(f"{running.url}/health").json()["engine"] == "starting", 5)
            ready = httpx.get(f"{running.url}/ready")
            if httpx.get(f"{running.url}/health").json()["engine"] == "starting":
                assert ready.status_code == 503
                assert ready.json()["last_token_s"] is None
            assert running.wait(running.answers, 20)
            assert time.monotonic() - killed < 5  # each time: it had answered before


def test_sigterm_drains(serve: "Serve") -> None:
    with serve() as running, ThreadPoolExecutor(1) as clients:
        assert running.answers()
        answer = clients.submit(_ask, running, max_tokens=150)
        time.sleep(0.5)
        running.process.send_signal(signal.SIGTERM)
        assert answer.result(timeout=30).json()["usage"]["completion_tokens"] == 150
        assert running.process.wait(20) == 0


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_every_process_drains(serve: "Serve", sent: signal.Signals) -> None:
    """As systemd sends it to a control group, a shell or a container's runtime to a process group."""
    with serve() as running, ThreadPoolExecutor(4) as clients:
        schema = {"type": "array", "items": {"type": "integer"}, "minItems": 100}
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        assert _ask(running, max_tokens=1, response_format=form).status_code == 200  # it is compiled
        answers = [clients.submit(_ask, running, max_tokens=200) for _ in range(2)]
        answers += [clients.submit(_ask, running, max_tokens=200, response_format=form)]
        assert running.wait(lambda: running.metric("vllm:num_requests_running") == 3, 20)
        assert not any(answer.done() for answer in answers)
        service = psutil.Process(running.pid)
        for process in [*service.children(recursive=True), service]:
            process.send_signal(sent)
        assert [answer.result(timeout=60).status_code for answer in answers] == [200] * 3
        assert [answer.result().json()["usage"]["completion_tokens"] for answer in answers] == [200] * 3
        assert running.process.wait(20) == 0


def test_sigterm_while_the_model_loads_ends_everything(default_model: ModelFiles, tmp_path: Path) -> None:
    words = ("serve", str(default_model.path), "--port", "0", "--database", f"sqlite:///{tmp_path}/sampan.db")
    command = [sys.executable, "-m", "sampan", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        service = psutil.Process(process.pid)
        deadline = time.monotonic() + 30
        while len(others := service.children(recursive=True)) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)  # the engine's process is there, and loads
        process.terminate()
        assert process.wait(10) == 0
        psutil.wait_procs(others, 10)
        assert _gone(others)


def test_a_second_sigterm_does_not_wait(serve: "Serve") -> None:
    with serve() as running, ThreadPoolExecutor(1) as clients:
        assert running.answers()
        answer = clients.submit(_ask, running, max_tokens=6000)
        time.sleep(0.5)
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(5) == 0
        with pytest.raises(httpx.HTTPError):
            answer.result(timeout=5).raise_for_status()


def test_a_huge_body_is_refused(service: "Running") -> None:
    answer = httpx.post(f"{service.url}/v1/chat/completions", content=b"x" * (100 << 20), timeout=60)
    assert answer.status_code == 413
    assert service.answers()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\xff\xfe", b'{"model": "\xc3\x28"}', b"[" * 100_000, b'{"a":' * 50_000, b"null", b"[]", b"{}",
        b'{"messages": "\\ud800"}', b'{"model": 1e999}', b"NaN",
    ],
)  # fmt: skip
def test_what_is_no_request_is_a_400(service: "Running", body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{service.url}/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_a_lone_surrogate_is_a_400(service: "Running") -> None:
    raw = b'{"model": "smollm2-135m", "messages": [{"role": "user", "content": "\\ud800"}]}'
    answer = httpx.post(
        f"{service.url}/v1/chat/completions", content=raw, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400


def test_a_full_queue_answers_at_once(serve: "Serve") -> None:
    with serve("--max-queue", "4", "--max-sequences", "1") as running, ThreadPoolExecutor(12) as clients:
        assert running.answers()
        statuses = []
        for future in [clients.submit(_ask, running, max_tokens=60) for _ in range(12)]:
            answer = future.result(timeout=60)
            statuses.append(answer.status_code)
            if answer.status_code != 200:
                assert answer.headers["retry-after"]
        assert statuses.count(200) >= 5
        assert set(statuses) <= {200, 429, 503}
        assert len(set(statuses)) == 2

"""What is tried beside the attacks: an engine that dies or stops, prompts of another key, what is left."""

import http.client
import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psutil
from prometheus_client.parser import text_string_to_metric_families

from serving_servers import Server, get

PROMISE_S = 5.0
_STALL_S = 60.0  # of the service, until it kills an engine that does nothing
_SETTLE_S = 30.0


@dataclass
class Kill:
    """`how`; `seconds` until a real answer came. `fault`: what did not hold, or nothing."""

    how: str
    seconds: float
    fault: str = ""


def ask(server: Server, key: str, prompt: str, tokens: int = 2) -> tuple[int, dict[str, Any]]:
    """A completion."""
    body = {"model": "held", "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    return post(server, key, "/v1/completions", body, 90)


def post(server: Server, key: str, path: str, body: Any, seconds: float) -> tuple[int, dict[str, Any]]:
    """Any request, that is left after so many seconds."""
    port = urlsplit(server.url).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    try:
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def guesses(server: Server, keys: dict[str, str], tries: int = 20) -> int:
    """How many prompts of one key another one can tell by the tokens that were cached."""
    told = 0
    for number in range(tries):
        secret = f"{number}: " + "the password of the vault is a river of stones " * 8
        ask(server, keys["honest"], secret)
        _, own = ask(server, keys["honest"], secret)
        _, other = ask(server, keys["attacker"], secret)
        assert _cached(own) > 0
        told += _cached(other) > 0
    return told


def _cached(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def beside_grammars(server: Server, keys: dict[str, str], many: int = 30) -> float:
    """Seconds that a small grammar of one key takes while another one's large ones are compiled."""

    def schema(name: str, fields: int) -> dict[str, Any]:
        parts = {f"{name}{place}": {"type": "string", "maxLength": 40} for place in range(fields)}
        return {"type": "object", "properties": parts, "additionalProperties": False}

    def ask_for(key: str, wanted: dict[str, Any], seconds: float) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": wanted}}
        said = [{"role": "user", "content": "Hi"}]
        body = {"model": "held", "messages": said, "response_format": form, "max_tokens": 4}
        with suppress(TimeoutError):
            post(server, key, "/v1/chat/completions", body, seconds)

    with ThreadPoolExecutor(many) as pool:
        asked = [pool.submit(ask_for, keys["attacker"], schema(f"a{n}_", 3000), 20) for n in range(many)]
        time.sleep(1)
        started = time.monotonic()
        ask_for(keys["honest"], schema("b", 3), 90)
        seconds = time.monotonic() - started
        for each in asked:
            each.result()
    return seconds


def kills(server: Server, key: str, times: int) -> list[Kill]:
    """Kill the engine again and again, hardly that it has answered."""
    found = []
    for number in range(times):
        assert ask(server, key, "a")[0] == 200
        engine = _engine(server)
        if number == times - 1:
            engine.send_signal(signal.SIGSTOP)
            found.append(_stopped(server, engine))
            engine.send_signal(signal.SIGCONT)
        else:
            engine.kill()
            found.append(_back(server, key))
    return found


def _back(server: Server, key: str) -> Kill:
    killed, lies = time.monotonic(), 0
    while True:
        lies += not _has_engine(server) and _is_ready(server) and not _has_engine(server)
        status = 503
        with suppress(OSError):
            status, _ = ask(server, key, "a")
        seconds = time.monotonic() - killed
        if status == 200 or seconds > 60:
            break
        time.sleep(0.05)
    fault = "no answer came" if status != 200 else f"/ready lied {lies} times" if lies else ""
    return Kill("kill -9", round(seconds, 2), fault)


def _stopped(server: Server, engine: psutil.Process) -> Kill:
    """How long `/ready` goes on to say that it answers."""
    start = time.monotonic()
    while _is_ready(server) and time.monotonic() - start < _STALL_S:
        time.sleep(0.1)
    seconds = time.monotonic() - start
    engine.send_signal(signal.SIGCONT)
    return Kill("SIGSTOP, until /ready says so", round(seconds, 2))


def _has_engine(server: Server) -> bool:
    return bool(json.loads(get(urlsplit(server.url).port or 80, "/health")[1])["engine"] == "ready")


def _is_ready(server: Server) -> bool:
    return get(urlsplit(server.url).port or 80, "/ready")[0] == 200


def _engine(server: Server) -> psutil.Process:
    children = psutil.Process(server.pid).children()
    return next(child for child in children if "sampan.server.process.worker" in child.cmdline())


def settled(server: Server) -> dict[str, Any]:
    """Slots and pages once all is over; `faults`: what is not back."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        time.sleep(0.6)  # the engine tells its pages four times a second
        now = metrics(server)
        wrong = {
            "slots are still held": now["sampan:slots"] != now["sampan:slots_free"],
            "requests are still in the service": bool(
                now["vllm:num_requests_running"] or now["vllm:num_requests_waiting"]
            ),
            "pages are still in use": bool(now["vllm:kv_cache_usage_perc"]),
            "work waited beside free slots": bool(now["sampan:queue_unstuck_total"]),
        }
        if not any(wrong.values()) or time.monotonic() > deadline:
            slots = [now["sampan:slots_free"], now["sampan:slots"]]
            found = [what for what, is_so in wrong.items() if is_so]
            return {"slots": slots, "cache_used": now["vllm:kv_cache_usage_perc"], "faults": found}


def metrics(server: Server) -> dict[str, float]:
    """Those without labels of their own."""
    text = get(urlsplit(server.url).port or 80, "/metrics")[1].decode()
    return {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}

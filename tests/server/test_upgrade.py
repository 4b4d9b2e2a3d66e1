"""Clients that ask for another protocol beside their request are answered in HTTP/1.1, bodies and all.

RFC 9110, 7.8: a server may ignore `Upgrade`. Java's HttpClient and `curl --http2` send it with each request.
"""

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Running

_ASKS = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
_LONG = "a" * 200_000
_JAVA = """
import java.net.URI;
import java.net.http.*;
import java.net.http.HttpRequest.BodyPublishers;
public class Ask {
    public static void main(String[] at) throws Exception {
        var client = HttpClient.newHttpClient();
        for (var body : new String[] {at[1], at[1].replace("false", "true"), at[1]}) {
            var told = HttpRequest.newBuilder(URI.create(at[0])).header("content-type", "application/json");
            var untold = BodyPublishers.fromPublisher(BodyPublishers.ofString(body));
            for (var how : new HttpRequest.BodyPublisher[] {BodyPublishers.ofString(body), untold}) {
                var answer = client.send(told.POST(how).build(), HttpResponse.BodyHandlers.ofString());
                System.out.println(answer.statusCode() + " " + answer.version());
            }
        }
    }
}
"""


def _body(prompt: str = "Hello") -> bytes:
    return json.dumps({"prompt": prompt}).encode()


def _head(length: str, asks: bytes = _ASKS) -> bytes:
    return b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n%b%b\r\n\r\n" % (
        asks,
        length.encode(),
    )


def _answer(client: socket.socket) -> tuple[int, dict[str, object]]:
    """Status and body of the next answer; not a byte of another."""
    with client.makefile("rb", buffering=0) as file:
        status, length, body = int(file.readline().split()[1]), 0, b""
        while (line := file.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        while len(body) < length:
            body += file.read(length - len(body)) or b""
    return status, json.loads(body)


@pytest.mark.parametrize("asks", [_ASKS, b"Upgrade: websocket\r\nConnection: keep-alive, upgrade\r\n"])
def test_a_body_beside_an_upgrade_arrives(service: "Running", asks: bytes) -> None:
    with service.connection() as client:
        client.settimeout(20)
        body = _body()
        for _ in range(2):  # on one connection
            client.sendall(_head(f"content-length: {len(body)}", asks) + body)
            status, answer = _answer(client)
            assert (status, answer["tokens"]) == (200, [19556])


def test_it_may_come_in_pieces_in_chunks_and_ahead(service: "Running") -> None:
    body, chunks = _body(), b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n"
    chunked = chunks % (body[:5], len(body) - 5, body[5:])
    with service.connection() as client:
        client.settimeout(20)
        whole = _head(f"content-length: {len(body)}") + body
        for part in (whole[:70], whole[70:-10], whole[-10:]):
            client.sendall(part)
            time.sleep(0.05)
        assert _answer(client)[1]["count"] == 1
        client.sendall(_head("transfer-encoding: chunked") + chunked + whole + whole)
        assert [_answer(client)[1]["count"] for _ in range(3)] == [1, 1, 1]
        large = _body(_LONG)
        client.sendall(_head(f"content-length: {len(large)}") + large)
        assert _answer(client)[0] == 400  # more tokens than are counted: it was read
        client.sendall(whole.replace(b"POST /tokenize", b"GET /nothing", 1))
        assert _answer(client)[0] == 404
        client.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + _ASKS + b"\r\n")
        assert _answer(client)[1]["status"] == "ok"


def test_such_a_body_is_no_second_request(service: "Running") -> None:
    hidden = b"GET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with service.connection() as client:
        client.settimeout(20)
        client.sendall(_head(f"content-length: {len(hidden)}"))
        time.sleep(0.1)
        client.sendall(hidden)
        assert _answer(client)[0] == 400
        client.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert _answer(client)[1]["status"] == "ok"


@pytest.mark.skipif(shutil.which("java") is None, reason="needs a JDK")
def test_javas_own_client(service: "Running", tmp_path: Path) -> None:
    (tmp_path / "Ask.java").write_text(_JAVA)
    body = json.dumps({"model": service.model, "prompt": "Hi", "max_tokens": 3, "stream": False})
    command = ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", str(tmp_path / "Ask.java")]
    ran = subprocess.run(
        [*command, f"{service.url}/v1/completions", body], capture_output=True, text=True, timeout=120
    )
    assert ran.stdout.splitlines() == ["200 HTTP_1_1"] * 6, ran.stdout + ran.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_that_asks_for_http2(service: "Running") -> None:
    command = ["curl", "-s", "--http2", "-H", "content-type: application/json", "-d", _body().decode()]
    ran = subprocess.run([*command, f"{service.url}/tokenize"], capture_output=True, timeout=60)
    assert json.loads(ran.stdout)["count"] == 1

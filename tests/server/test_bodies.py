"""What stands around a request: how its body is packed, HEAD, and where its key is."""

import gzip
import json
import tracemalloc
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from sampan.server.coding import unpacked

if TYPE_CHECKING:
    from conftest import Running, Serve

_BODY = json.dumps({"prompt": "Hello"}).encode()
_BARE = zlib.compressobj(wbits=-15)
_PACKED = [
    ("gzip", gzip.compress(_BODY)),
    ("x-gzip, identity", gzip.compress(_BODY)),
    ("gzip", gzip.compress(_BODY[:5]) + gzip.compress(_BODY[5:])),  # RFC 1952: members one after another
    ("deflate", zlib.compress(_BODY)),
    ("deflate", _BARE.compress(_BODY) + _BARE.flush()),
    ("identity", _BODY),
]


def _tokenize(running: "Running", content: Any, **headers: str) -> httpx.Response:
    sent = {"content-type": "application/json", **headers}
    return httpx.post(f"{running.url}/tokenize", content=content, headers=sent, timeout=60)


@pytest.mark.parametrize(("coding", "content"), _PACKED)
def test_a_packed_body_is_read(service: "Running", coding: str, content: bytes) -> None:
    answer = _tokenize(service, content, **{"content-encoding": coding})
    assert (answer.status_code, answer.json()["tokens"]) == (200, [19556])
    answer = _tokenize(service, iter([content[:9], content[9:]]), **{"content-encoding": coding})
    assert (answer.status_code, answer.json()["tokens"]) == (200, [19556])


def test_a_large_packed_body_is_read(service: "Running") -> None:
    body = json.dumps({"prompt": "Hello " * 20_000}).encode()
    plain = _tokenize(service, body).json()
    assert plain["count"] > 20_000
    assert _tokenize(service, gzip.compress(body), **{"content-encoding": "gzip"}).json() == plain


@pytest.mark.parametrize("size", [500 << 20, 8 << 20])
def test_what_a_body_unpacks_to_is_bounded(service: "Running", size: int) -> None:
    packer, zeros = zlib.compressobj(9, wbits=31), bytes(1 << 20)
    bomb = b"".join(packer.compress(zeros) for _ in range(size >> 20)) + packer.flush()
    before = service.memory()
    answer = _tokenize(service, bomb, **{"content-encoding": "gzip"})
    # Of 500 MiB no more is unpacked than the largest body has; 8 MiB of zeros are no JSON.
    assert answer.status_code == (413 if size > 100 << 20 else 400), answer.text
    assert service.memory() - before < 200 << 20


@pytest.mark.parametrize(
    ("coding", "content", "status"),
    [
        ("gzip", _BODY, 400),
        ("gzip", gzip.compress(_BODY)[:-9], 400),
        ("deflate", zlib.compress(_BODY) + b"more", 400),
        ("gzip", gzip.compress(b"") * 100_000 + gzip.compress(_BODY), 400),  # each member costs time
        ("br", _BODY, 415),
        ("gzip, gzip", gzip.compress(gzip.compress(_BODY)), 415),
    ],
)
def test_what_is_packed_otherwise_is_refused(
    service: "Running", coding: str, content: bytes, status: int
) -> None:
    answer = _tokenize(service, content, **{"content-encoding": coding})
    assert answer.status_code == status
    assert "content-encoding" in answer.json()["error"]["message"]
    # RFC 9110, 15.5.16: a 415 for a coding says which are taken.
    assert answer.headers.get("accept-encoding") == ("gzip, deflate" if status == 415 else None)


def test_unpacking_takes_no_more_than_it_may() -> None:
    bomb = gzip.compress(bytes(64 << 20))
    tracemalloc.start()
    assert unpacked(bomb, "gzip", 1 << 20) is None
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_a_byte_order_mark_is_passed_over(service: "Running") -> None:
    long = json.dumps({"prompt": "Hello", "model": service.model}).encode() + b" " * (70 << 10)
    for body in (_BODY, long):
        assert _tokenize(service, b"\xef\xbb\xbf" + body).json()["tokens"] == [19556]


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/metrics", "/openapi.json", "/nothing"])
def test_head_is_get_without_its_body(service: "Running", path: str) -> None:
    head, get = (httpx.request(method, service.url + path) for method in ("HEAD", "GET"))
    assert head.status_code == get.status_code
    assert head.headers["content-type"] == get.headers["content-type"]
    assert "content-length" in head.headers
    assert head.content == b""
    assert httpx.head(f"{service.url}/v1/completions").status_code == 405


def test_a_key_may_come_in_azures_header(serve: "Serve", tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a-key-of-16-letters\n")
    options = ("--api-key-file", str(tmp_path / "keys"), "--log-prompts", "--served-name", "house-model")
    with serve(*options) as running:
        for key, status in (("a-key-of-16-letters", 200), ("another-of-16-letters", 401)):
            answer = httpx.get(f"{running.url}/v1/models", headers={"api-key": key})
            assert answer.status_code == status
            assert ("house-model" in answer.text) == (status == 200)
        page = httpx.get(running.url)
        assert "into its log" in page.text
        assert "none of it down" not in page.text


def test_the_page_says_what_is_kept(service: "Running") -> None:
    page = httpx.get(service.url).text
    assert "kept in this browser; the service writes none of it down" in page
    assert "this machine" not in page

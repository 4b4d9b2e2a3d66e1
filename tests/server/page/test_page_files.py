"""The page's files as they are sent, and the rendering endpoint, over plain HTTP."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

import httpx
import pytest

FILES = sorted(file.name for file in (resources.files("sampan.server.page") / "static").iterdir())


@pytest.fixture
def client(service: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=20) as client:
        yield client


def test_the_page_has_a_strict_policy(client: httpx.Client) -> None:
    response = client.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    rules = dict(
        rule.strip().split(" ", 1) for rule in response.headers["content-security-policy"].split(";")
    )
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == rules["base-uri"] == "'none'"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", FILES)
def test_files_have_their_type_and_are_asked_for_again_by_etag(client: httpx.Client, name: str) -> None:
    kinds = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}
    response = client.get(f"/page/assets/{name}")
    assert response.headers["content-type"].startswith(kinds[name.rsplit(".", 1)[1]])
    again = client.get(f"/page/assets/{name}", headers={"If-None-Match": response.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""
    assert "content-security-policy" in again.headers


@pytest.mark.parametrize("name", FILES)
def test_files_name_nothing_elsewhere_and_nothing_inline(client: httpx.Client, name: str) -> None:
    text = client.get(f"/page/assets/{name}").text
    elsewhere = re.findall(r"https?://(?!www\.w3\.org/)[^\s\"']+", text)
    assert elsewhere == []
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=\"|<script>|eval\(|new Function", text)
    assert len(text.splitlines()) <= 300


@pytest.mark.parametrize("name", ["../routes.py", "..%2froutes.py", "nothing.js", "%00", "static"])
def test_only_the_files_of_the_page_are_sent(client: httpx.Client, name: str) -> None:
    assert client.get(f"/page/assets/{name}").status_code == 404


def test_rendering(client: httpx.Client) -> None:
    response = client.post("/page/render", json={"text": "# Hi\n\n<b>x</b> \U0001f600"})
    assert response.json() == {
        "blocks": [
            {"line": 0, "html": "<h3>Hi</h3>\n"},
            {"line": 2, "html": "<p>&lt;b&gt;x&lt;/b&gt; \U0001f600</p>\n"},
        ]
    }


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"text"', b'{"text": 5}', b"{}", b"\xff\xfe", b"[" * 90_000, b'{"text": null}'],
)
def test_what_is_no_text_is_refused(client: httpx.Client, body: bytes) -> None:
    response = client.post("/page/render", content=body)
    assert response.status_code == 400
    assert "text" in response.json()["error"]["message"]


def test_half_a_surrogate_pair_is_no_failure(client: httpx.Client) -> None:
    response = client.post("/page/render", content=rb'{"text": "a \ud800 b"}')
    assert response.json()["blocks"][0]["html"] == "<p>a ? b</p>\n"


@pytest.mark.parametrize("text", ["x" * 1_000_000, "x" * 100_001])
def test_a_megabyte_is_refused(client: httpx.Client, text: str) -> None:
    response = client.post("/page/render", json={"text": text})
    assert response.status_code == 413
    assert "at most" in response.json()["error"]["message"]


def test_the_service_answers_while_a_long_text_is_rendered(client: httpx.Client) -> None:
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(client.post, "/page/render", json={"text": "![[" * 33_000})
        assert client.get("/health").status_code == 200
        assert not slow.done()
        assert slow.result().json()["blocks"][0]["html"].startswith('<pre class="plain"')

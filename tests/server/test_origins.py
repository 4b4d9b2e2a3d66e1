"""`--cors-origin`: what it matches, and what it refuses."""

import re

import pytest

from sampan.core.errors import UsageError
from sampan.server.origins import pattern


@pytest.mark.parametrize(
    ("given", "matched", "others"),
    [
        (
            "https://a.example",
            ["https://a.example"],
            ["http://a.example", "https://a.example:8443", "https://aXexample"],
        ),
        ("HTTPS://A.example/", ["https://a.example"], ["https://a.example/"]),
        # A browser leaves the scheme's own port out (RFC 6454, 6.2).
        ("https://a.example:443", ["https://a.example"], ["https://a.example:443"]),
        (
            "http://localhost:*",
            ["http://localhost", "http://localhost:3000"],
            ["http://localhost:3000.evil.example"],
        ),
        ("http://[::1]:3000", ["http://[::1]:3000"], ["http://[::1]"]),
        ("app://obsidian.md", ["app://obsidian.md"], ["app://obsidian.md.evil"]),
        ("null", ["null"], ["http://null"]),
        ("*", ["https://a.example", "null"], []),
    ],
)
def test_what_it_matches(given: str, matched: list[str], others: list[str]) -> None:
    found = re.compile(pattern([given, "https://other.example"]))
    assert all(found.fullmatch(each) for each in [*matched, "https://other.example"])
    assert not any(found.fullmatch(each) for each in others)
    assert not re.fullmatch(pattern([]), matched[0])


@pytest.mark.parametrize(
    "given",
    [
        "localhost:3000",
        "a.example",
        "https://",
        "https://*.example",
        "https://a.example/page",
        "http://a:b",
        "",
    ],
)
def test_what_no_browser_sends_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match=r"SCHEME://HOST.*http://localhost:\*"):
        pattern([given])

"""A headless Chromium on the running service: every test has a browser profile of its own.

A test fails where the page wrote an error to the console or asked for anything outside the service.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from sampan.server.markdown.render import render

# Short answers, the same each time, where a test does not choose otherwise.
_SETTINGS = {"max_tokens": 24, "temperature": 0, "seed": 1}

_KEEP_SETTINGS = "localStorage['sampan.settings'] ??= %s"
_PUT = """if (!localStorage['sampan.current']) {
    const conversations = %s;
    for (const each of conversations) {
        localStorage['sampan.conversation.' + each.id] = JSON.stringify(each);
    }
    localStorage['sampan.current'] = JSON.stringify(conversations[0].id);
}"""


@dataclass
class Visit:
    """A browser's tab on the page. `outside`: what it asked for elsewhere; `errors`: of the console.

    `expected`: errors with one of these texts are what the test wants.
    """

    page: Page
    url: str
    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def open(self, path: str = "/") -> Page:
        """The page, with its models loaded."""
        self.page.goto(self.url + path)
        expect(self.page.locator("#model option")).not_to_have_count(0)
        return self.page

    def ask(self, text: str) -> None:
        """Types and sends."""
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def answered(self) -> None:
        """Waits until no answer is coming any more."""
        expect(self.page.locator(".growing")).to_have_count(0)
        expect(self.page.get_by_role("button", name="Send")).to_be_visible()

    def put(self, *conversations: dict[str, Any]) -> Page:
        """Opens the page with conversations kept in the browser, the first one open."""
        self.page.context.add_init_script(_PUT % json.dumps(conversations))
        return self.open()

    def until(self, expression: str, argument: Any = None) -> None:
        """Waits until an expression (or function) is true; the page's policy forbids `wait_for_function`."""
        end = time.monotonic() + 20
        while not self.page.evaluate(expression, argument):
            assert time.monotonic() < end, f"never true: {expression}"
            self.page.wait_for_timeout(30)

    def unexpected(self) -> list[str]:
        """Errors of the console that the test did not want."""
        return [error for error in self.errors if not any(text in error for text in self.expected)]


@pytest.fixture
def visits(chromium: Browser) -> Iterator[Callable[..., Visit]]:
    """Makes visits of a service: `visits(url, settings={…}, **context)`; checks them at the end."""
    made: list[Visit] = []

    def visit(url: str, settings: dict[str, Any] | None = None, **context: Any) -> Visit:
        profile = chromium.new_context(reduced_motion="reduce", **context)
        profile.set_default_timeout(20_000)
        profile.add_init_script(_KEEP_SETTINGS % json.dumps(json.dumps(_SETTINGS | (settings or {}))))
        visit = Visit(profile.new_page(), url)
        _watch(visit)
        made.append(visit)
        return visit

    expect.set_options(timeout=20_000)
    yield visit
    for each in made:
        each.page.context.close()
        assert not each.outside, f"the page asked for {each.outside}"
        assert not each.unexpected(), f"the console has {each.unexpected()}"


def _watch(visit: Visit) -> None:
    def inside(url: str) -> bool:
        return url.startswith((visit.url + "/", f"blob:{visit.url}", "data:"))

    def outside(route: Any) -> None:
        visit.outside.append(route.request.url)
        route.abort()

    visit.page.context.route(lambda url: not inside(url), outside)
    visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
    visit.page.on("console", lambda m: visit.errors.append(m.text) if m.type == "error" else None)


@pytest.fixture
def visit(visits: Callable[..., Visit], service: Any) -> Visit:
    """A visit of the service that the folder shares."""
    return visits(service.url)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures of the page go; `SAMPAN_PICTURES` names a folder to keep them in."""
    return Path(os.environ.get("SAMPAN_PICTURES", tmp_path))


@pytest.fixture(scope="session")
def rich() -> dict[str, Any]:
    """A conversation with everything that an answer can have."""
    return {
        "id": "rich",
        "title": "The quadratic formula",
        "created": 1_700_000_000_000,
        "updated": 1_700_000_000_000,
        "model": "smollm2-135m",
        "settings": {"max_tokens": 24, "temperature": 0, "seed": 1},
        "messages": [
            {"role": "user", "content": "How do I solve a quadratic equation? Show me some Python, too."},
            {
                "role": "assistant",
                "content": _ANSWER,
                "reasoning": "The user wants the *formula*.\n\nI recall $x$ and write a function.",
                "seconds": 3.4,
                "model": "smollm2-135m",
                "stats": {"tokens": 312, "rate": 171.3, "first": 0.08, "prompt": 46},
            },
        ],
    }


_TAGS = re.compile(
    "p|br|hr|h3|h4|h5|h6|strong|em|s|code|pre|figure|figcaption|span|div|ul|ol|li|blockquote|a|table|"
    "thead|tbody|tr|th|td|math|mrow|mi|mn|mo|mtext|ms|mspace|mfrac|msqrt|mroot|msub|msup|msubsup|"
    "munder|mover|munderover|mmultiscripts|mprescripts|none|mtable|mtr|mtd|mstyle|mpadded|mphantom|"
    "merror"
)
_ATTRIBUTES = re.compile(
    "class|href|rel|target|tabindex|role|aria-label|start|display|displaystyle|stretchy|fence|"
    "movablelimits|largeop|accent|accentunder|symmetric|form|scriptlevel|mathvariant|columnalign|"
    "mathcolor|mathbackground|width|height|depth|lspace|rspace|voffset|minsize|maxsize|mathsize|"
    "linethickness"
)


class Checker(HTMLParser):
    """Fails on an element, attribute or address that has no place in an answer, and on a wrong nesting."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert _TAGS.fullmatch(tag), tag
        if tag not in ("br", "hr"):
            self.open.append(tag)
        for name, value in attrs:
            assert _ATTRIBUTES.fullmatch(name), (tag, name, value)
            if name == "href":
                assert urlsplit(value or "").scheme in ("http", "https", "mailto"), value

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("br", "hr")
        assert not attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    handle_decl = handle_pi = unknown_decl = handle_comment  # type: ignore[assignment]


@pytest.fixture(scope="session")
def html() -> Callable[[str], str]:
    """Renders a text; every block must be whole and hold only what has a place in an answer."""

    def checked(text: str) -> str:
        blocks = render(text)
        for block in blocks:
            checker = Checker()
            checker.feed(block.html)
            checker.close()
            assert not checker.open
        return "".join(block.html for block in blocks)

    return checked


_ANSWER = r"""## The quadratic formula

For $ax^2 + bx + c = 0$ with $a \neq 0$ the solutions are

\[
x = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}, \qquad \Delta = b^2 - 4ac
\]

In **code**, with `math.sqrt`:

```python
from math import sqrt

def roots(a: float, b: float, c: float) -> tuple[float, float]:
    '''Both real roots; ValueError where there are none.'''
    d = sqrt(b * b - 4 * a * c)  # the discriminant
    return (-b - d) / (2 * a), (-b + d) / (2 * a)
```

| discriminant | real roots |
|:-------------|-----------:|
| $\Delta > 0$ |          2 |
| $\Delta = 0$ |          1 |

1. Compute the discriminant.
2. Take its root:
   - if it is negative, stop
   - else go on

> The sum over all $i$: $$\sum_{i=1}^{n} i = \frac{n(n+1)}{2}$$

So \(\boxed{x = 3}\), see [the article](https://en.wikipedia.org/wiki/Quadratic_formula) and
![a plot](https://example.org/plot.png). <script>document.title = 'broken'</script>
"""

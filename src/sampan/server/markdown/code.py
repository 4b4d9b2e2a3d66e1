"""A block of code as HTML: coloured by Pygments' class names, with a place for the page's copy button."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from html import escape
from typing import Any

MAX_CHARS = 12_000  # some lexers take a square of it over hostile text

# Lexers are regular expressions over untrusted text: only those that are common, and tried in the tests.
_LANGUAGES = {
    "bash": "bash sh shell zsh console",
    "c": "c h",
    "cpp": "cpp c++ cc cxx hpp cuda",
    "csharp": "csharp c# cs",
    "css": "css scss",
    "diff": "diff patch",
    "docker": "docker dockerfile",
    "go": "go golang",
    "haskell": "haskell hs",
    "html": "html xml svg",
    "java": "java",
    "javascript": "javascript js jsx mjs",
    "json": "json jsonl",
    "julia": "julia jl",
    "kotlin": "kotlin kt",
    "lua": "lua",
    "make": "make makefile",
    "php": "php",
    "python": "python py python3 pycon",
    "r": "r",
    "ruby": "ruby rb",
    "rust": "rust rs",
    "sql": "sql sqlite postgresql",
    "swift": "swift",
    "tex": "tex latex",
    "toml": "toml",
    "typescript": "typescript ts tsx",
    "yaml": "yaml yml",
}
_LEXERS = {name: lexer for lexer, names in _LANGUAGES.items() for name in names.split()}


def code_block(source: str, language: str, check: Callable[[], None]) -> str:
    """Plain where the language is not known or there is much of it.

    `check` is called along the way; what it raises ends the work.
    """
    shown = escape(language[:24].lower())
    lexer = _LEXERS.get(language.lower())
    body = "".join(_coloured(source, lexer, check)) if lexer and len(source) <= MAX_CHARS else escape(source)
    # A scrolled region must be reachable by keyboard.
    return (
        f'<figure class="code"><figcaption>{shown or "text"}</figcaption>'
        f'<pre tabindex="0"><code>{body}</code></pre></figure>\n'
    )


def _coloured(source: str, lexer: str, check: Callable[[], None]) -> Iterator[str]:
    for kind, text in _lexer(lexer).get_tokens(source):
        check()
        name = _css_class(kind)
        yield f'<span class="{name}">{escape(text)}</span>' if name else escape(text)


@lru_cache(maxsize=64)
def _lexer(name: str) -> Any:
    from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]

    return get_lexer_by_name(name, stripnl=False, ensurenl=False)


@lru_cache(maxsize=512)
def _css_class(kind: Any) -> str:
    """Pygments' short name of a kind, or of the nearest kind above it that has one."""
    from pygments.token import STANDARD_TYPES  # type: ignore[import-untyped]

    while kind not in STANDARD_TYPES:
        kind = kind.parent
    name = str(STANDARD_TYPES[kind])
    return f"t-{name}" if name and name != "w" else ""

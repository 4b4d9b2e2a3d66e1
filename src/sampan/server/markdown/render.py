"""Markdown to HTML that is safe to put into the page: `render(text)` gives the text's top-level blocks.

What goes in is a model's output: nothing in it is trusted. HTML is shown as text, links lead only to http,
https and mailto, images become links (nothing is fetched), code is coloured by class names, mathematics is
MathML. A text over `MAX_CHARS` is refused; one that takes longer than `SECONDS` comes back plain.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from html import escape
from typing import TYPE_CHECKING, Any

from .code import code_block
from .formula import mathml

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

MAX_CHARS = 100_000
SECONDS = 1.0

_SAFE_LINK = re.compile(r"(?:https?://|mailto:)", re.IGNORECASE)
_LINK_END = "</a>"


@dataclass(frozen=True)
class Block:
    """One top-level block. `line`: where it begins in the text, counted from 0. `html`: safe, complete."""

    line: int
    html: str


class TooSlow(Exception):
    """The text's time is up."""


@lru_cache(maxsize=256)
def render(text: str) -> tuple[Block, ...]:
    """The text's blocks in order. More text after the last can only change the last.

    ValueError: more than `MAX_CHARS` characters.
    """
    if len(text) > MAX_CHARS:
        raise ValueError(f"the text has {len(text)} characters; at most {MAX_CHARS} are rendered at once")
    env: dict[str, Any] = {"deadline": time.monotonic() + SECONDS}
    try:
        return tuple(_blocks(parser(), text, env))
    except (TooSlow, RecursionError):
        return (Block(0, f'<pre class="plain" tabindex="0">{escape(text)}</pre>'),)


def _blocks(md: "MarkdownIt", text: str, env: dict[str, Any]) -> list[Block]:
    tokens = md.parse(text, env)
    blocks: list[Block] = []
    start = 0
    for i, token in enumerate(tokens):
        check(env)
        if token.level == 0 and token.nesting <= 0:
            first = tokens[start]
            html = md.renderer.render(tokens[start : i + 1], md.options, env)
            blocks.append(Block(first.map[0] if first.map else 0, html))
            start = i + 1
    return blocks


def check(env: Any) -> None:
    """TooSlow when the time of the text is over."""
    if time.monotonic() > env["deadline"]:
        raise TooSlow


@cache
def parser() -> "MarkdownIt":
    """CommonMark with tables, strike-through and mathematics; the first call imports it (0.1 s)."""
    from markdown_it import MarkdownIt
    from mdit_py_plugins.amsmath import amsmath_plugin
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    from .brackets import brackets_plugin

    md = MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": 24})
    md.enable(["table", "strikethrough"])
    md.use(dollarmath_plugin, allow_labels=False, allow_space=False, allow_digits=False, double_inline=True)
    md.use(amsmath_plugin)
    md.use(brackets_plugin)
    md.block.ruler.before(
        "table", "deadline", _block_deadline, {"alt": ["paragraph", "reference", "blockquote", "list"]}
    )
    md.inline.ruler.before("text", "deadline", _inline_deadline)
    for name, rule in _RULES.items():
        md.add_render_rule(name, rule)
    return md


def _block_deadline(state: Any, _line: int, _end: int, _silent: bool) -> bool:
    check(state.env)
    return False


def _inline_deadline(state: Any, _silent: bool) -> bool:
    check(state.env)
    return False


def _link_open(_self: Any, tokens: Sequence["Token"], i: int, _options: Any, env: Any) -> str:
    return _anchor(str(tokens[i].attrGet("href") or ""), env)


def _link_close(_self: Any, _tokens: Sequence["Token"], _i: int, _options: Any, env: Any) -> str:
    return str(env.setdefault("links", []).pop())


def _anchor(href: str, env: Any) -> str:
    """Opens a link, or a span where it leads nowhere safe; `_link_close` closes what was opened."""
    safe = _SAFE_LINK.match(href)
    env.setdefault("links", []).append(_LINK_END if safe else "</span>")
    if not safe:
        return '<span class="unsafe-link">'
    return f'<a href="{escape(href)}" rel="noopener noreferrer nofollow" target="_blank">'


def _image(_self: Any, tokens: Sequence["Token"], i: int, _options: Any, env: Any) -> str:
    token = tokens[i]
    href = str(token.attrGet("src") or "")
    label = escape(token.content or href)
    if env.get("links"):  # a link cannot stand in a link
        return label
    return f"{_anchor(href, env)}{label}{env['links'].pop()}"


def _heading(_self: Any, tokens: Sequence["Token"], i: int, _options: Any, _env: Any) -> str:
    """The page has headings of its own above: h1 of an answer is an h3."""
    token = tokens[i]
    level = min(int(token.tag[1]) + 2, 6)
    return f"<h{level}>" if token.nesting == 1 else f"</h{level}>\n"


def _fence(_self: Any, tokens: Sequence["Token"], i: int, _options: Any, env: Any) -> str:
    token = tokens[i]
    language = token.info.split(maxsplit=1)[0] if token.info.strip() else ""
    return code_block(token.content, language, lambda: check(env))


def _table_open(_self: Any, _tokens: Any, _i: int, _options: Any, _env: Any) -> str:
    return '<div class="table" role="region" aria-label="Table" tabindex="0"><table>\n'


def _table_close(_self: Any, _tokens: Any, _i: int, _options: Any, _env: Any) -> str:
    return "</table></div>\n"


def _cell_open(_self: Any, tokens: Sequence["Token"], i: int, _options: Any, _env: Any) -> str:
    """Alignment as a class: the page's policy allows no style attribute."""
    align = re.search(r"left|right|center", str(tokens[i].attrGet("style") or ""))
    return f'<{tokens[i].tag} class="{align.group()}">' if align else f"<{tokens[i].tag}>"


def _formula(_self: Any, tokens: Sequence["Token"], i: int, _options: Any, env: Any) -> str:
    check(env)
    token = tokens[i]
    block = token.type != "math_inline"
    latex = token.content.strip()
    inner = mathml(latex, block=block) or f'<code class="latex">{escape(latex)}</code>'
    if token.block:
        return f'<div class="math" tabindex="0" role="group" aria-label="Formula">{inner}</div>\n'
    return f'<span class="math-display">{inner}</span>' if block else inner


_RULES = {
    "link_open": _link_open,
    "link_close": _link_close,
    "image": _image,
    "heading_open": _heading,
    "heading_close": _heading,
    "fence": _fence,
    "code_block": _fence,
    "table_open": _table_open,
    "table_close": _table_close,
    "th_open": _cell_open,
    "td_open": _cell_open,
    "math_inline": _formula,
    "math_inline_double": _formula,
    "math_block": _formula,
    "amsmath": _formula,
}

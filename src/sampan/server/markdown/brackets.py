r"""The mathematics that models write most: `\(…\)` in a line, `\[…\]` in a line or as a block of its own."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markdown_it import MarkdownIt


def brackets_plugin(md: "MarkdownIt") -> None:
    """Gives the tokens of `dollarmath` for brackets: `math_inline`, `math_inline_double`, `math_block`."""
    md.inline.ruler.before("escape", "math_brackets", _inline)
    md.block.ruler.before(
        "fence", "math_brackets", _block, {"alt": ["paragraph", "reference", "blockquote", "list"]}
    )


def _inline(state: Any, silent: bool) -> bool:
    opening = state.src[state.pos : state.pos + 2]
    if opening not in ("\\(", "\\["):
        return False
    closing = "\\)" if opening == "\\(" else "\\]"
    end = _find(state, closing, state.pos + 2)
    if end < 0 or not state.src[state.pos + 2 : end].strip():
        return False
    if not silent:
        token = state.push("math_inline" if opening == "\\(" else "math_inline_double", "math", 0)
        token.content = state.src[state.pos + 2 : end]
        token.markup = opening
    state.pos = end + 2
    return True


def _find(state: Any, closing: str, start: int) -> int:
    """Where it closes, or -1; what was not found once is not looked for again: the whole stays linear."""
    missing = state.cache.setdefault("no end of", set())
    if closing in missing:
        return -1
    end = int(state.src.find(closing, start))
    if end < 0:
        missing.add(closing)
    return end


def _block(state: Any, start: int, end: int, silent: bool) -> bool:
    if state.is_code_block(start) or not _line(state, start).startswith("\\["):
        return False
    for line in range(start, end):
        if state.sCount[line] < state.blkIndent and not state.isEmpty(line):
            return False
        text = _line(state, line).rstrip()
        close = text.find("\\]", 2 if line == start else 0)
        if close >= 0:
            return close == len(text) - 2 and _push(state, start, line, silent)
        if line > start and not text:
            return False  # LaTeX allows no empty line in a formula
    return False


def _push(state: Any, start: int, line: int, silent: bool) -> bool:
    if silent:
        return True
    text = "\n".join(_line(state, each) for each in range(start, line + 1))
    token = state.push("math_block", "math", 0)
    token.block = True
    token.content = text.strip()[2:-2]
    token.markup = "\\["
    token.map = [start, line + 1]
    state.line = line + 1
    return True


def _line(state: Any, line: int) -> str:
    return str(state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]])

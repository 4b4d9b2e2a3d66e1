"""DeepSeek's calls: V3 and R1 name the kind and fence the arguments, V3.1 does neither.

Source of the forms: the chat templates that the models are published with. Both are read alike.
"""

from sampan.text.tools.source import Malformed, Reading, Source
from sampan.text.tools.syntax import Head, Syntax

CALLS_BEGIN, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL_BEGIN, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
SEPARATOR = "<｜tool▁sep｜>"
FENCE, FENCE_END = "```json", "```"

_LONGEST_NAME = 256
_MARKERS = (CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, SEPARATOR)


def read_head(source: Source, opener: str) -> Reading[Head]:
    """`function` SEPARATOR name, a line end and a fence; or name SEPARATOR."""
    if opener == CALLS_BEGIN:
        yield from source.required(CALL_BEGIN)
    first = yield from source.until(SEPARATOR, _LONGEST_NAME)
    start = source.position
    yield from source.white()
    if (yield from source.peek()) == "{":
        return Head(first.strip())
    source.position = start
    if first.strip() != "function":
        raise Malformed
    name = yield from source.until("\n", _LONGEST_NAME)
    yield from source.required(FENCE)
    yield from source.white()
    if (yield from source.peek()) != "{":
        raise Malformed
    return Head(name.strip())


DEEPSEEK = Syntax(
    name="deepseek",
    head=read_head,
    before=f"{CALL_BEGIN}function{SEPARATOR}NAME\n{FENCE}\n",
    after=f"\n{FENCE_END}{CALL_END}",
    openers=(CALLS_BEGIN, CALL_BEGIN),
    closers=(FENCE_END, CALL_END, CALLS_END),
    markers=_MARKERS,
    begin=CALLS_BEGIN,
    end=CALLS_END,
    silence=None,
)

DEEPSEEK_V31 = Syntax(
    name="deepseek-v3.1",
    head=read_head,
    before=f"{CALL_BEGIN}NAME{SEPARATOR}",
    after=CALL_END,
    openers=(CALLS_BEGIN, CALL_BEGIN),
    closers=(FENCE_END, CALL_END, CALLS_END),
    markers=_MARKERS,
    begin=CALLS_BEGIN,
    between="",
    end=CALLS_END,
    silence=None,
)

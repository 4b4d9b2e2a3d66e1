"""What of a Lark grammar must be known before llguidance reads it: where it would never come to an end.

Where a single byte may come next, llguidance reads on by itself, and within a terminal without a limit: after
`X "a"` with `X: "a"+` for ever. That is forbidden to it, unless all terminals are known to end.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sampan.core.errors import RequestError
from sampan.text.schema.document import MAX_DEPTH
from sampan.text.schema.read import ReadSchema, check_length, check_repeats, read_schema

STRICT = {
    "json_allowed_escapes": r"nrbtf\"",  # with \u a key could be spelt anew, and pass for another one
    "lenient": False,
    "coerce_one_of": False,
}
"""llguidance's options of a schema that is obeyed to the letter."""
_JSON = re.compile(r"%json\s*")
_UNFORCED = '\n%llguidance {"no_forcing": true}\n'
_TAGS = "(function_call|tools|tool|response|json|xml|JSON)"
LOOSE = (
    rf'\s*(```\s*(json|xml)?\s*)?(<{_TAGS}>\s*)?\{{\s*"name"\s*:\s*',
    r'\s*,\s*"(arguments|parameters)"\s*:',
)
"""A call without its opener, up to its arguments: what comes before the function's name, and behind it."""
CLOSE = rf"\s*\}}\s*(<\/{_TAGS}>\s*)?(```\s*)?"
"""What comes behind the arguments."""
_LOOSE = r"(?:[^\\/*+?\n]|\\.)*".join(map(re.escape, LOOSE))  # a name, or several, none of it repeated
# Texts, and the terminals of the grammars that this package makes itself: see `sampan.text.tools.grammar`.
_ENDING = re.compile(
    r'"(?:\\.|[^"\\\n])*"|^%llguidance \{\}$|^[a-z][a-z_0-9]*(?:\[lazy\])?:'
    r"|^TEXT: /\(\.\|\\n\)\*/$|^WORDS: /\\s\*\(\[\^\{\\s\]\(\.\|\\n\)\*\)\?/$|\b(?:TEXT|WORDS)(?=[ ]|$)"
    rf"|^LOOSE_[0-9]+: /{_LOOSE}/$|^FIRST: /\(\.\|\\n\)\*/ & ~/{_LOOSE}\(\.\|\\n\)\*/$"
    rf"|^CLOSE: /{re.escape(CLOSE)}/$|^WHITE: / \?/$|\b(?:FIRST|WHITE|CLOSE|LOOSE_[0-9]+)(?=[ ]|$)",
    re.MULTILINE,
)
_UNKNOWN = re.compile(r'[A-Z/%"#.:]')


@dataclass(frozen=True)
class ReadLark:
    """`text`: the grammar, safe to read. `overlaps`, `keys`: of all its schemas, as of a `ReadSchema`."""

    text: str
    overlaps: tuple[str, ...]
    keys: bool


def read_lark(source: str) -> ReadLark:
    """The grammar with its schemas read as any other, but for those that ask for leniency.

    Raises `RequestError` for a schema that is refused, or repeats too much.
    """
    rest, written, end = list[str](), list[str](), 0
    read = list[ReadSchema]()
    for start, stop, schema in _schemas(source):
        options = schema.pop("x-guidance", {}) if isinstance(schema, dict) else {}
        rest.append(source[end:start])
        written += [source[end:start], source[start:stop]]
        if not isinstance(options, dict) or options.get("lenient"):
            for part in _objects(schema):
                _check(part)
        elif isinstance(schema, dict):
            read.append(read_schema(json.dumps(schema)))
            written[-1] = "%json " + json.dumps(read[-1].schema | {"x-guidance": STRICT | options})
        end = stop
    rest.append(source[end:])
    text = "".join([*written, source[end:]])
    if _UNKNOWN.search(_ENDING.sub(" ", "".join(rest))):
        text += _UNFORCED
    overlaps = tuple(overlap for each in read for overlap in each.overlaps)
    return ReadLark(text, overlaps, any(each.keys for each in read))


def _schemas(source: str) -> Iterator[tuple[int, int, Any]]:
    """Each `%json`, with where it begins and ends."""
    decoder, end = json.JSONDecoder(), 0
    for found in _JSON.finditer(source):
        if found.start() < end:
            continue
        try:
            schema, end = decoder.raw_decode(source, found.end())
        except RecursionError:
            raise RequestError(
                f"the Lark grammar has a schema that is nested too deeply: {MAX_DEPTH} levels are the most"
            ) from None
        except ValueError:  # llguidance says it better, or it stands in a text
            continue
        yield found.start(), end, schema


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    rest = [value]
    while rest:
        part = rest.pop()
        if isinstance(part, dict):
            yield part
            rest += part.values()
        elif isinstance(part, list):
            rest += part


def _check(part: Mapping[str, Any]) -> None:
    what = "the Lark grammar: a schema in it"
    check_length(part, what)
    names = part.get("patternProperties")
    for pattern in (part.get("pattern"), *(names if isinstance(names, dict) else ())):
        if isinstance(pattern, str):
            check_repeats(pattern, f"{what}: a pattern")

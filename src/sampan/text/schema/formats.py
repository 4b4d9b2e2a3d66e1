"""The formats of texts and numbers that answers can be held to, each as its standard has it.

Those of llguidance are narrowed where it is laxer than the standard; others are patterns of ours. Sources:
RFC 3339 (dates, durations), 5321 (e-mail), 1123 and 5891 (hosts), 3986 (URIs), 3987 (IRIs), 6570 (templates),
6901 (JSON pointers), 4648 (base64), 9110 (media ranges), 9651 (structured fields), E.123 (telephone numbers),
CSS 2.1 (colours), and OpenAPI's registry of formats.
"""

from collections.abc import Mapping
from typing import Any

from sampan.core.errors import quoted
from sampan.text.schema.keywords import resembled, wrong

# Leap seconds belong to a few midnights only, T and Z are written large, and many calendars know no year 0.
_TIME, _YEAR = "^[^t:]*:[^:]*:[0-5][^z]*$", "^([^0]|0[^0]|00[^0]|000[^0])"
_LEAP = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)"
_DAY = f"^([0-9]{{4}}-(0[13-9]|1|02-([01]|2[0-8]))|{_LEAP}-02-29)"
# No label may begin as an encoded one does: whether it is one no pattern can tell. The last is no number.
_LABEL = r"([^.]{1,3}|[^.]{2}([^.-][^.]|-[^.-])[^.]*)"
_HOST = (rf"^{_LABEL}(\.{_LABEL})*$", r"(^|\.)[^.]*[a-zA-Z][^.]*$")
_MAIL = (r"^[^@]{1,64}@(\[.*|([^.]{1,63}\.)*[^.]{1,63})$",)
_NARROWED: Mapping[str, tuple[str, ...]] = {
    "time": (_TIME,),
    "date": (_YEAR, _DAY),
    "date-time": (_YEAR, _DAY, _TIME),
    "hostname": _HOST,
    "email": _MAIL,
}
_LONGEST = {"hostname": 253, "email": 254}
_SAME = {"ip-address": "ipv4", "host-name": "hostname"}  # as draft 3 has them
LLGUIDANCE = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)

_DATE = (
    r"([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    rf"|02-(0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?"
_PCHAR = r"([a-zA-Z0-9._~!$&'()*+,;=:@-]|%[0-9a-fA-F]{2})"
_NO_COLON = r"([a-zA-Z0-9._~!$&'()*+,;=@-]|%[0-9a-fA-F]{2})"
_HOST_AND_PORT = r"(([a-zA-Z0-9._~!$&'()*+,;=-]|%[0-9a-fA-F]{2})*(:[0-9]*)?)"
_TAIL = rf"(\?({_PCHAR}|[/?])*)?(#({_PCHAR}|[/?])*)?"
_RELATIVE = rf"(//{_HOST_AND_PORT}(/{_PCHAR}*)*|/({_PCHAR}+(/{_PCHAR}*)*)?|({_NO_COLON}+(/{_PCHAR}*)*)?)"
_ABSOLUTE = rf"[a-zA-Z][a-zA-Z0-9+.-]*:(//{_HOST_AND_PORT}(/{_PCHAR}*)*|/?({_PCHAR}+(/{_PCHAR}*)*)?)"
# ucschar of RFC 3987, in the place of "~" and beside it; iprivate is left out.
_WIDE = r"~\x{a0}-\x{d7ff}\x{f900}-\x{fdcf}\x{fdf0}-\x{ffef}" + "".join(
    rf"\x{{{plane:x}0000}}-\x{{{plane:x}fffd}}" for plane in range(1, 14)
)
_NAME = r"(([a-zA-Z0-9_]|%[0-9a-fA-F]{2})(\.?([a-zA-Z0-9_]|%[0-9a-fA-F]{2}))*(:[1-9][0-9]{0,3}|\*)?)"
_LITERAL = r"([!#$&(-;=?-\[\]_a-z~]|%[0-9a-fA-F]{2})"
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_POINTER = r"(/([^~/]|~[01])*)*"
_TOKEN = r"[!#$%&'+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"([ !#-\[\]-~]|\\["\\])*"'
_COLOURS = (
    "aqua|black|blue|fuchsia|gray|green|lime|maroon|navy|olive|orange|purple|red|silver|teal|white|yellow"
)
_PATTERNS = {
    "iri": f"^{_ABSOLUTE}{_TAIL}$".replace("~", _WIDE),
    "iri-reference": f"^({_ABSOLUTE}|{_RELATIVE}){_TAIL}$".replace("~", _WIDE),
    "uri-reference": f"^({_ABSOLUTE}|{_RELATIVE}){_TAIL}$",
    "uri-template": rf"^({_LITERAL}|\{{[+#./;?&]?{_NAME}(,{_NAME})*\}})*$",
    "json-pointer": f"^{_POINTER}$",
    "relative-json-pointer": f"^(0|[1-9][0-9]*)(#|{_POINTER})$",
    "byte": _BASE64,
    "base64url": "^([A-Za-z0-9_-]{4})*([A-Za-z0-9_-]{2,3})?$",
    "date-time-local": f"^{_DATE}T{_CLOCK}$",
    "time-local": f"^{_CLOCK}$",
    "char": r"^[\s\S]$",
    "media-range": rf"^(\*/\*|{_TOKEN}/(\*|{_TOKEN}))( ?; ?{_TOKEN}=({_TOKEN}|{_QUOTED}))*$",
    # Without exponent, and of 34 digits at the most, as every reading of these has it.
    "decimal": r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?$",
    "decimal128": r"^-?(0|[1-9][0-9]{0,16})(\.[0-9]{1,17})?$",
    "sf-binary": f"^:{_BASE64[1:-1]}:$",
    "sf-boolean": r"^\?[01]$",
    "sf-decimal": r"^-?(0|[1-9][0-9]{0,11})\.[0-9]{1,3}$",
    "sf-integer": r"^-?(0|[1-9][0-9]{0,14})$",
    "sf-string": f"^{_QUOTED}$",
    "sf-token": r"^[A-Za-z*][!#$%&'*+.^_`|~:/0-9A-Za-z-]*$",
    "color": f"^(#[0-9a-fA-F]{{3}}|#[0-9a-fA-F]{{6}}|{_COLOURS})$",
    "phone": r"^\+[1-9][0-9]{0,2}( [0-9]{2,4}){2,3}$",  # the international notation
}
_ANY = {"password", "binary", "commonmark", "html"}  # OpenAPI's: hints for people, of any text
_BITS = {f"{sign}int{bits}": (sign, bits) for sign in ("", "u") for bits in (8, 16, 32)}
_LARGEST = 9223372036854774784  # of a double below 2**63
_RANGES = {
    name: (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for name, (sign, bits) in _BITS.items()
} | {"int64": (-_LARGEST, _LARGEST), "sf-integer": (1 - 10**15, 10**15 - 1)}
_NUMBERS = {"uint64", "float", "double", "double-int", "utc-millisec"}
ENSURED = LLGUIDANCE | _PATTERNS.keys() | _SAME.keys()
_REFUSED = {
    "idn-email", "idn-hostname", "regex", "style", "http-date",
}  # fmt: skip
"""Of some draft, or of OpenAPI's registry."""
_DEFINED = frozenset(ENSURED | _REFUSED | _RANGES.keys() | _NUMBERS)


def check_format(schema: Mapping[str, Any], place: str) -> None:
    """Refuse formats of texts that cannot be ensured, and slips."""
    name, kind = schema.get("format"), schema.get("type", "string")
    if name is None or "string" not in kind or name in ENSURED:
        return
    only = "only " + ", ".join(sorted(ENSURED))
    if name in _REFUSED:
        raise wrong(place, "format", f"is {quoted(name)}, which is not supported, {only}")
    if name not in _DEFINED | _ANY and (near := resembled(name, _DEFINED)):
        raise wrong(
            place, "format", f'is {quoted(name)}, which resembles "{near}": correct it or take it out'
        )


def narrow(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Take out a format that llguidance does not know; what the schema must obey besides."""
    name = _SAME.get(schema.get("format", ""), schema.get("format"))
    if name in LLGUIDANCE:
        schema["format"] = name
        longest = [{"maxLength": _LONGEST[name]}] if name in _LONGEST else []
        return [*({"pattern": pattern} for pattern in _NARROWED.get(name, ())), *longest]
    schema.pop("format", None)
    more: list[dict[str, Any]] = []
    if name in _PATTERNS:
        more.append({"pattern": _PATTERNS[name]})
    if name == "date-time-local":
        more.append({"pattern": _YEAR})
    if name in _RANGES:
        more.append(dict(zip(("minimum", "maximum"), _RANGES[name], strict=True)))
    return more


def encoded(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """What an encoding asks for: of base64 its alphabet, of any other nothing that can be told."""
    return [{"pattern": _BASE64}] if schema.get("contentEncoding") == "base64" else []

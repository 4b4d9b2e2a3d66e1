"""Web pages that may call, as `--cors-origin` names them: a scheme, a host and a port (RFC 6454)."""

import re
from collections.abc import Sequence

from sampan.core.errors import UsageError, quoted

ANY = "*"
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[^\s/?#@*:\[\]]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]+|\*))?/?"
)
_OWN_PORTS = {"http": "80", "https": "443"}


def pattern(given: Sequence[str]) -> str:
    """A regular expression that matches the origins as browsers send them.

    `UsageError` for what no browser sends, such as a host without a scheme.
    """
    return "|".join(map(_pattern, given)) or "(?!)"


def _pattern(text: str) -> str:
    if text == ANY:
        return ".*"
    if text == "null":  # of a page in a file
        return "null"
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        raise UsageError(
            f"--cors-origin {quoted(text)} is no origin: write SCHEME://HOST or SCHEME://HOST:PORT, "
            f"{quoted('http://localhost:*')} for any port, or * for every page"
        )
    scheme, host, port = found["scheme"], found["host"], found["port"]
    start = re.escape(f"{scheme}://{host}")
    if port == ANY:
        return f"{start}(:[0-9]+)?"
    return start if port in (None, _OWN_PORTS.get(scheme)) else f"{start}:{port}"

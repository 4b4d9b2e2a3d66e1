"""Reasoning in a form that clients give back as it is, as `reasoning.encrypted_content` asks for.

It is no secret: the same text stands beside it, and a client may say what it likes of earlier turns. So it is
neither encrypted nor signed.
"""

from base64 import b64decode, b64encode

_NAME = "sampan1"


def sealed(text: str) -> str:
    """The form of a text."""
    return f"{_NAME}.{b64encode(text.encode()).decode()}"


def unsealed(given: str) -> str | None:
    """The text again, "" of nothing; None for what another service has sealed."""
    if not given:
        return ""
    prefix, _, form = given.rpartition(".")
    try:
        return b64decode(form, validate=True).decode() if prefix == _NAME else None
    except ValueError:
        return None

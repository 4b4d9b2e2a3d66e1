"""Conversations for chat templates that take one system message, at the beginning, or turns by turns only.

Agents send several: instructions of the client, of the developer, and reminders between the turns.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def folded(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The system messages at the beginning as one; later ones are the user's, whose turns in a row are one.

    For a template that refuses `messages` as they are. Contents are texts.
    """
    rows: list[dict[str, Any]] = []
    for message in messages:
        standing = all(row["role"] == "system" for row in rows)
        role = "user" if message["role"] == "system" and not standing else message["role"]
        if rows and role == rows[-1]["role"] and role in ("system", "user"):
            rows[-1] |= {"content": _joined((rows[-1]["content"], message["content"]))}
        else:
            rows.append({**message, "role": role})
    return rows


def _joined(texts: Iterable[str | None]) -> str:
    return "\n\n".join(text for text in texts if text)

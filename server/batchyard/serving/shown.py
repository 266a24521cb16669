"""A caller's own words in an error."""

from __future__ import annotations

LONGEST_SHOWN = 40
"""Characters that an error repeats: statuses travel in headers, whose size is bounded."""


def shown(text: str) -> str:
    """A caller's text as it may be repeated in an error: quoted, escaped, cut."""
    if len(text) <= LONGEST_SHOWN:
        return ascii(text)
    return f"{text[:LONGEST_SHOWN]!a}... ({len(text)} characters)"

"""Opaque strings that callers hand back: cursors into a job's events, and page tokens.

Each carries a short digest of what it belongs to, so that one from elsewhere is noticed. That is a check against
mistakes, not against forgery: neither opens anything that its holder may not read anyway.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json

from batchyard.endpoint.errors import FieldViolation, InvalidInputError, OutOfRangeError

MOST_PER_PAGE = 1000
DEFAULT_PER_PAGE = 50


def cursor(job_id: str, sequence: int) -> str:
    """Marks the place after event `sequence` of a job."""
    return f"{sequence:x}.{_digest('events', job_id)}"


def read_cursor(given: str, job_id: str, last: int) -> int:
    """The sequence number in a cursor; 0 for "". Raises OutOfRangeError unless it is one of this job's."""
    if not given:
        return 0
    place, _, digest = given.partition(".")
    if digest == _digest("events", job_id) and _is_hex(place) and int(place, 16) <= last:
        return int(place, 16)
    raise OutOfRangeError(
        f"cursor {given[:80]!r} is not one of trainingJobs/{job_id}: give one that this job's events came with, "
        "or none to begin with its first event",
        reason="CURSOR_OUT_OF_RANGE",
        metadata={"name": f"trainingJobs/{job_id}"},
    )


def page_token(listing: str, after: int | str) -> str:
    """The place after item `after` in a listing; `listing` names it together with its filters."""
    text = json.dumps([_digest("page", listing), after])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_page_token(given: str, listing: str) -> int | str | None:
    """What `page_token` was given as `after`; None for "". Raises InvalidInputError."""
    if not given:
        return None
    try:
        digest, after = json.loads(base64.b64decode(given + "=" * (-len(given) % 4), altchars=b"-_", validate=True))
        if digest == _digest("page", listing) and type(after) in (int, str):
            return after  # type: ignore[no-any-return]
    except (binascii.Error, ValueError, TypeError):
        pass
    expected = "next_page_token of an earlier reply to the same request"
    raise InvalidInputError([FieldViolation("page_token", f"{given[:80]!r} given; expected {expected}")])


def page_size(given: int) -> int:
    """How many items a page has: 0 means 50, more than 1000 counts as 1000. Raises InvalidInputError when negative."""
    if given < 0:
        raise InvalidInputError([FieldViolation("page_size", f"{given} given; expected 0 or more")])
    return min(given or DEFAULT_PER_PAGE, MOST_PER_PAGE)


def _digest(kind: str, text: str) -> str:
    return hashlib.blake2b(f"{kind}:{text}".encode(), digest_size=6).hexdigest()


def _is_hex(text: str) -> bool:
    return 0 < len(text) <= 16 and all(c in "0123456789abcdef" for c in text)

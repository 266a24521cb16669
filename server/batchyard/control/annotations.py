"""What people write about a job: tags to find it by, and a note. No machine reads them. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from batchyard.control.records import Job
from batchyard.endpoint.errors import FieldViolation, InvalidInputError

TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+=-]{0,63}")
EXPECTED = "expected 1 to 64 letters, digits and any of . _ : / @ + = -, beginning with a letter or digit"
MOST_TAGS = 20
LONGEST_NOTE = 2000
"""Characters."""


def annotated(
    job: Job, add: Collection[str] = (), remove: Collection[str] = (), note: str | None = None, field: str = "add_tags"
) -> Job:
    """The job with these tags more and those fewer, and with this note unless it is None.

    `field` is what the caller calls the tags that are added. Raises InvalidInputError.
    """
    illegal = [(place, tag) for place, tag in enumerate(add) if not TAG.fullmatch(tag)]
    wrong = [FieldViolation(f"{field}[{place}]", f"{tag[:80]!r} given; {EXPECTED}") for place, tag in illegal]
    tags = tuple(sorted({*job.tags, *add} - set(remove)))
    if len(tags) > MOST_TAGS:
        wrong.append(FieldViolation(field, f"the job would have {len(tags)} tags; expected {MOST_TAGS} at most"))
    if note is not None and len(note) > LONGEST_NOTE:
        wrong.append(FieldViolation("note", f"{len(note)} characters given; expected {LONGEST_NOTE} at most"))
    if note is not None and "\0" in note:
        wrong.append(FieldViolation("note", "a NUL character given; expected text"))
    if wrong:
        raise InvalidInputError(wrong)
    return replace(job, tags=tags, note=job.note if note is None else note)

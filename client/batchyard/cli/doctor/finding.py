"""What one check has found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from batchyard.cli.options import Connection


class Health(StrEnum):
    """How a thing stands."""

    GOOD = "good"
    ABSENT = "absent"
    """Not there, and not needed."""
    WARNING = "warning"
    """Works now, and may not for long, or not well."""
    BAD = "bad"
    """Something will fail."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report."""

    what: str
    """The thing, for example `disk`."""
    health: Health
    found: str
    """What was found, in words."""
    advice: str = ""
    """What to do; empty when all is well."""


@dataclass(frozen=True, kw_only=True)
class Patient:
    """What is looked at."""

    data_dir: Path
    """Where the service keeps, or will keep, its data."""
    connection: Connection


Check = Callable[[Patient], Iterable[Finding]]
"""Looks at one thing. Never raises for what it finds, and takes seconds at most."""


def good(what: str, found: str) -> Finding:
    """All is well."""
    return Finding(what=what, health=Health.GOOD, found=found)


def absent(what: str, found: str, advice: str = "") -> Finding:
    """Not there, and not needed."""
    return Finding(what=what, health=Health.ABSENT, found=found, advice=advice)


def warning(what: str, found: str, advice: str) -> Finding:
    """Works now, and may not for long."""
    return Finding(what=what, health=Health.WARNING, found=found, advice=advice)


def bad(what: str, found: str, advice: str) -> Finding:
    """Something will fail."""
    return Finding(what=what, health=Health.BAD, found=found, advice=advice)

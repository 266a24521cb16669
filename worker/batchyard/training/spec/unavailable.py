"""Keys that nothing carries out yet: a value other than the default is refused, never ignored.

Whoever builds what a key asks for removes its row.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from batchyard.training.spec.checks import Checks

if TYPE_CHECKING:
    from batchyard.training.spec.job import TrainingJobSpec

UNAVAILABLE: dict[str, object] = {
    "priority": 0,
}
"""A key's path to its default."""


def check(checks: Checks, spec: TrainingJobSpec) -> None:
    """Adds each key of UNAVAILABLE that was given another value than its default."""
    named = {violation.field for violation in checks.violations}
    for path, default in UNAVAILABLE.items():
        given = functools.reduce(getattr, path.split("."), spec)
        expected = "nothing: this key is not available yet; leave it out"
        checks.require(given == default or path in named, path, given, expected)

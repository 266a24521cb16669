"""Named places at which a test makes a process die, or a call fail: just before and after what must be durable.

A failpoint is one call, `failpoint("folder.before_rename")`, and costs one comparison: nothing is armed in a process
that serves people. Two environment variables, both needed, arm it when the process starts:

    BATCHYARD_FAILPOINTS=folder.before_rename=kill@3,create.after_commit=error     or @FILE, read at every failpoint
    BATCHYARD_FAILPOINTS_STATE=FOLDER     counts how often each was reached, over all processes and restarts

`armed.py`, which does it, is in the source tree and in no wheel: an installed service refuses to start with them.
"""

from __future__ import annotations

import os
from typing import Protocol

VARIABLE = "BATCHYARD_FAILPOINTS"
STATE_VARIABLE = "BATCHYARD_FAILPOINTS_STATE"

__all__ = ["STATE_VARIABLE", "VARIABLE", "failpoint"]


class _Armed(Protocol):
    def reach(self, name: str) -> None: ...


def failpoint(name: str) -> None:
    """Does nothing, or what a test wants to happen here. `name` is a key of catalogue.CATALOGUE."""
    if _armed is not None:
        _armed.reach(name)


def _from_environment() -> _Armed | None:
    """Ends the process where it is told of failpoints and cannot have them: it would test nothing, and seem to."""
    if not os.environ.get(VARIABLE) and not os.environ.get(STATE_VARIABLE):
        return None
    try:
        from batchyard.failpoints import armed
    except ImportError:
        raise SystemExit(
            f"{VARIABLE}: this is an installed batchyard, which has no failpoints; unset it, or run from the sources"
        ) from None
    try:
        return armed.read(os.environ.get(VARIABLE, ""), os.environ.get(STATE_VARIABLE, ""))
    except armed.FailpointsError as error:
        raise SystemExit(f"batchyard: {error}") from None


_armed = _from_environment()

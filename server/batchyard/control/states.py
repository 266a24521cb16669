"""The states of a job and the legal ways between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """Where a job stands; the names are those of the API."""

    QUEUED = "QUEUED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    PAUSING = "PAUSING"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
"""Final: nothing follows."""

ACTIVE = frozenset({State.STARTING, State.RUNNING, State.PAUSING, State.CANCELLING})
"""An attempt exists that the executor may be running."""

LEGAL: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.STARTING, State.PAUSED, State.CANCELLED, State.FAILED}),
    # Back to QUEUED: the attempt failed and another one may do better, or the service was stopped.
    State.STARTING: frozenset({State.RUNNING, State.QUEUED, State.PAUSING, State.CANCELLING, State.FAILED}),
    State.RUNNING: frozenset({State.QUEUED, State.PAUSING, State.CANCELLING, State.SUCCEEDED, State.FAILED}),
    # The last step may be done, or a worker may fail, before the workers hear of the pause or the cancel.
    State.PAUSING: frozenset({State.PAUSED, State.CANCELLING, State.SUCCEEDED, State.FAILED}),
    State.PAUSED: frozenset({State.QUEUED, State.CANCELLED}),
    State.CANCELLING: frozenset({State.CANCELLED, State.SUCCEEDED, State.FAILED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}


class IllegalTransitionError(Exception):
    """A transition that LEGAL does not hold: a defect of this program, never of a request."""


def check_transition(job: str, old: State, new: State) -> None:
    """Raises IllegalTransitionError unless a job may go from `old` to `new`."""
    if new not in LEGAL[old]:
        legal = ", ".join(sorted(LEGAL[old])) or "nothing: the state is final"
        raise IllegalTransitionError(f"{job}: {old} -> {new} is not legal; {old} may become {legal}")

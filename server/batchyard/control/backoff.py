"""How long a job waits before it is tried again, on a clock that never jumps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 60.0


@dataclass(frozen=True)
class _Wait:
    failures: int
    """One after another, without a new checkpoint between them."""
    checkpoint_step: int | None
    due: float


class Backoff:
    """Doubles the wait with each failure of a job; one that has come on since waits as after its first. Kept in memory
    only: a control plane that comes back tries at once.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives seconds and never goes back."""
        self._clock = clock
        self._waits: dict[str, _Wait] = {}

    def failed(self, job_id: str, checkpoint_step: int | None) -> None:
        """The job's attempt has failed, and another one is to come."""
        before = self._waits.get(job_id)
        stuck = before is not None and before.checkpoint_step == checkpoint_step
        failures = before.failures + 1 if before is not None and stuck else 1
        seconds = min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** (failures - 1))
        self._waits[job_id] = _Wait(failures, checkpoint_step, self._clock() + seconds)

    def forget(self, job_id: str) -> None:
        """The job has ended, or its user has taken it in hand."""
        self._waits.pop(job_id, None)

    def seconds(self, job_id: str) -> float:
        """How much longer the job waits; 0: not at all."""
        wait = self._waits.get(job_id)
        return 0.0 if wait is None else max(0.0, wait.due - self._clock())

"""Requests of a batch that failed, in halves of halves, until only the guilty ones are left to fail.

One guilty request among 128 costs 14 further runs. MOST_RUNS bounds what one failed batch may cost the others when it
is the engine that fails; smaller batches also help an engine that was out of memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from batchyard.serving.request_queue import Request

MOST_RUNS = 32
"""Further runs for one failed batch."""


class Suspects:
    """Parts of a failed batch, to be run apart before anything else."""

    def __init__(self) -> None:
        self._parts: list[Sequence[Request]] = []
        self._runs_left = MOST_RUNS

    def __bool__(self) -> bool:
        return bool(self._parts)

    def next(self) -> list[Request]:
        """The next part to run, without those whose callers have left. Empty: no suspects are left."""
        while self._parts:
            if part := [request for request in self._parts.pop() if request.answer is not None]:
                return part
        self._runs_left = MOST_RUNS
        return []

    def split(self, failed: Sequence[Request]) -> bool:
        """Keeps both halves for next(). False: one request failed alone, or the runs are used up."""
        if len(failed) < 2 or self._runs_left < 2:
            return False
        self._runs_left -= 2
        middle = len(failed) // 2
        self._parts += [failed[middle:], failed[:middle]]
        return True

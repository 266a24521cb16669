"""Tells when the workers of an attempt have been silent for too long."""

from __future__ import annotations

import time
from collections.abc import Callable

LOOKS = 8
"""Looks within the time that workers may be silent."""


class Silence:
    """Adds up the time without a sign of life. Time in which this process itself did not run (it was stopped, or the
    machine was asleep or overloaded) hardly counts: the workers may have spoken, and nobody listened.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`limit_s`: how long it may last; 0: for ever."""
        self._clock = clock
        self.limit_s = limit_s
        self.look_s = limit_s / LOOKS if limit_s else None
        """How often to look; None: never."""
        self._lasted_s = 0.0
        self._looked = clock()

    def broken(self) -> None:
        """A worker has spoken."""
        self._lasted_s = 0.0
        self._looked = self._clock()

    def over(self) -> bool:
        """Whether it has lasted too long. To be asked every `look_s`, when nothing that was said is left unread."""
        if self.look_s is None:
            return False
        now = self._clock()
        self._lasted_s += min(now - self._looked, 2 * self.look_s)
        self._looked = now
        return self._lasted_s >= self.limit_s

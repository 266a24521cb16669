"""How many of the events that wait in a transport are taken in one turn of the event loop.

What is begun and not yet answered falls out of the processor's caches: with 2,048 calls of the small model under way,
those that a batch takes next should have been begun just before it, and the rest stay where they are, untouched. But
the transport's own queue has no bound. So it is watched while it is never found empty: where it grows, all that waits
in it is begun, and the batcher's queue, which has a bound, says no. Where calls are not equal, that queue has them all:
only it knows which go first.
"""

from __future__ import annotations

from collections.abc import Callable

USUAL = 128
"""Events in a turn: the rows of a batch where nothing else is set."""
MOST_GROWTH = 4096
"""Calls that may wait in the transport, beside those that did when it was last found empty, or nearly."""
LOOK_EVERY = 32
"""Turns. To look takes 8 us."""
ALL = 1 << 16
"""Events in a turn where calls are not equal."""


class Appetite:
    """Of one event loop for one transport's events."""

    def __init__(self, arrived: Callable[[], int], equal: Callable[[], bool]) -> None:
        """`arrived`: how many calls have come since the transport began. `equal`: whether none goes before another."""
        self._arrived = arrived
        self._equal = equal
        self._full_turns = 0
        """One after the other, in which as many events came as were asked for."""
        self._would_have_arrived = 0
        """If no more calls waited than when these turns began."""
        self._asked = USUAL

    def next(self) -> int:
        """Events to ask for."""
        self._asked = USUAL
        if self._full_turns and not self._equal():
            self._asked = ALL
        elif self._full_turns and self._full_turns % LOOK_EVERY == 0:
            growth = self._arrived() - self._would_have_arrived
            if growth > MOST_GROWTH:
                self._asked = growth
        return self._asked

    def took(self, events: int, calls: int) -> None:
        """So many events came of those asked for, and so many of them are calls."""
        if events < self._asked:
            self._full_turns = 0
        elif self._full_turns:
            self._full_turns += 1
            self._would_have_arrived += calls
        else:
            self._full_turns = 1
            self._would_have_arrived = self._arrived()

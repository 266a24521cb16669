"""Which engine is timed at which batch size, and how often. Knows no process: what times is passed in.

All engines take turns, again and again: what else the machine does meets them all alike, and the fastest of several
rounds counts. Those that can no longer win leave early, so that the time goes to those that are close.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

LEAST_ROUNDS, MOST_ROUNDS = 5, 15
"""Of those that are still in."""
LEAST_SECONDS, MOST_SECONDS = 2.0, 60.0
"""For all rounds together: between the least and the most rounds, it goes on for the least seconds; a network that is
so slow that the most seconds do not suffice for the least rounds is chosen for by fewer."""
LONG_BATCH_SECONDS = 0.15
"""Sizes above the first whose batch takes the fastest engine longer than this are left out: they take in proportion."""
HOPELESS = (2.0, 1.4, 1.4, 1.15)
"""After the first, second, ... round: who takes so many times the fastest's seconds at every size is out."""


@dataclass
class Contender:
    """One engine with one number of threads."""

    engine: str
    threads: int
    seconds: dict[int, float] = field(default_factory=dict)
    """Rows -> the fastest so far."""

    def took(self, rows: int, seconds: float) -> None:
        """Keeps it if it is the fastest."""
        self.seconds[rows] = min(seconds, self.seconds.get(rows, seconds))


Time = Callable[[Contender, int], Awaitable[float | None]]
"""The seconds of one batch of so many rows; None: it can no longer be timed."""


async def take_turns(contenders: Sequence[Contender], sizes: Sequence[int], timed: Time) -> None:
    """Fills in what each contender takes at the sizes in use. `sizes`: rising."""
    began = time.monotonic()
    racing, used = list(contenders), list(sizes)
    for number in range(MOST_ROUNDS):
        racing = await _round(racing, used, timed, backwards=bool(number % 2))
        if number == 0:
            used = _worth_timing(racing, used)
        limit = HOPELESS[min(number, len(HOPELESS) - 1)]
        racing = [contender for contender in racing if not _hopeless(contender, racing, used, limit)]
        elapsed = time.monotonic() - began
        if elapsed > (LEAST_SECONDS if number + 1 >= LEAST_ROUNDS else MOST_SECONDS):
            return


async def _round(racing: list[Contender], sizes: list[int], timed: Time, backwards: bool) -> list[Contender]:
    """Every contender at every size once; returns those that can still be timed."""
    lost: set[int] = set()
    for rows in sizes:
        for contender in racing[:: -1 if backwards else 1]:
            if id(contender) in lost:
                continue
            seconds = await timed(contender, rows)
            if seconds is None:
                lost.add(id(contender))
            else:
                contender.took(rows, seconds)
        if _fastest(racing, rows) > LONG_BATCH_SECONDS:
            break
    return [contender for contender in racing if id(contender) not in lost]


def _worth_timing(racing: Sequence[Contender], sizes: list[int]) -> list[int]:
    return [rows for rows in sizes if any(rows in contender.seconds for contender in racing)]


def _fastest(racing: Sequence[Contender], rows: int) -> float:
    return min((contender.seconds[rows] for contender in racing if rows in contender.seconds), default=0.0)


def _hopeless(contender: Contender, racing: Sequence[Contender], sizes: list[int], limit: float) -> bool:
    return all(contender.seconds[rows] > limit * _fastest(racing, rows) for rows in sizes)

"""Bounds what one worker may log, in length, rate and total, so that a chatty one fills neither memory nor disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one worker may log."""

    characters: int = 4000
    """Of one line; the rest is cut off."""
    burst: int = 1000
    """Lines at once."""
    rate: float = 100.0
    """Lines a second, over time."""
    total: int = 64 << 20
    """Characters in all."""


class LineLimiter:
    """Cuts long lines and drops too many; a notice says how many were dropped. For one thread."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._allowance = float(limits.burst)
        self._asked = clock()
        self._left = limits.total
        self._dropped = 0

    def admit(self, text: str) -> Iterator[str]:
        """What to log instead of `text`: nothing, the line, or a notice and the line."""
        now = self._clock()
        self._allowance = min(self._limits.burst, self._allowance + (now - self._asked) * self._limits.rate)
        self._asked = now
        if self._allowance < 1 or self._left <= 0:
            self._dropped += 1
            return
        self._allowance -= 1
        yield from self.notice()
        text = cut(text, self._limits.characters)
        self._left -= len(text)
        yield text

    def notice(self) -> Iterator[str]:
        """How many lines were dropped since the last notice, if any were."""
        if self._dropped:
            why = f"more than {self._limits.rate:g} a second" if self._left > 0 else "the log of this worker is full"
            yield f"({self._dropped} lines dropped: {why})"
            self._dropped = 0


def cut(text: str, characters: int) -> str:
    """`text`, or its beginning and how much is missing."""
    return text if len(text) <= characters else f"{text[:characters]} ... ({len(text) - characters} more characters)"

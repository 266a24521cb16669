"""A course of numbers on one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

BLOCKS = "▁▂▃▄▅▆▇█"
GAP = " "
"""Stands where a number is not finite."""


def sparkline(values: Sequence[float], width: int) -> str:
    """`values` as at most `width` blocks, the lowest and the highest of them at the two ends of the scale.

    More values than blocks: each block is the mean of its share of them.
    """
    means = _shrunk(values, width)
    finite = [value for value in means if math.isfinite(value)]
    if not finite:
        return GAP * len(means)
    low, high = min(finite), max(finite)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((v - low) * scale)] if math.isfinite(v) else GAP for v in means)


class Course:
    """The course of a number from its beginning, in bounded memory: when it is full, neighbours become their mean."""

    def __init__(self, capacity: int = 512) -> None:
        """`capacity`: numbers that are kept, an even count."""
        self._capacity = capacity
        self._means: list[float] = []
        self._pending: list[float] = []
        self._each = 1
        """Values that one mean stands for."""

    def add(self, value: float) -> None:
        """Takes the next value."""
        self._pending.append(value)
        if len(self._pending) == self._each:
            self._means.append(sum(self._pending) / self._each)
            self._pending.clear()
        if len(self._means) == self._capacity:
            self._means = _shrunk(self._means, self._capacity // 2)
            self._each *= 2

    def clear(self) -> None:
        """Begins anew."""
        self._means, self._pending, self._each = [], [], 1

    def line(self, width: int) -> str:
        """The course as a sparkline."""
        return sparkline(self._means, width)


def _shrunk(values: Sequence[float], width: int) -> list[float]:
    """At most `width` means of neighbours."""
    if len(values) <= width:
        return list(values)
    edges = [i * len(values) // width for i in range(width + 1)]
    shares = [values[i:j] for i, j in pairwise(edges)]
    return [sum(share) / len(share) for share in shares]

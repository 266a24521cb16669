"""Which requests are measured, and the bounded places where their rows wait and are remembered."""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]
"""[n, features], uint8 or float32."""

ROWS_OF_A_REQUEST = 16
"""Most rows that are taken from one request, evenly spaced: its rows may be alike, and copying them takes time."""


class Chooser:
    """Chooses each request with the same chance, for the cost of a subtraction: it draws how many to let pass."""

    def __init__(self, rate: float, seed: int | None = None) -> None:
        """`rate` is above 0, at most 1."""
        self._random = random.Random(seed)
        self._log_of_passing = math.log1p(-rate) if rate < 1 else -math.inf
        self._to_pass = self._draw()

    def chosen(self) -> bool:
        """Whether this request is measured."""
        self._to_pass -= 1
        if self._to_pass >= 0:
            return False
        self._to_pass = self._draw()
        return True

    def _draw(self) -> int:
        """Requests to let pass before the next: geometrically distributed."""
        return int(math.log(1 - self._random.random()) / self._log_of_passing)


def copy_of_some(rows: Rows) -> Rows:
    """A copy of up to ROWS_OF_A_REQUEST of a request's rows, evenly spaced."""
    return np.array(rows[:: -(-len(rows) // ROWS_OF_A_REQUEST)])


class RowStore:
    """Arrays of rows, oldest first, bounded in rows and bytes."""

    def __init__(self, most_rows: int, most_bytes: int) -> None:
        self._most_rows = most_rows
        self._most_bytes = most_bytes
        self._parts: deque[Rows] = deque()
        self.rows = 0
        self._bytes = 0

    def has_room(self, rows: Rows) -> bool:
        """Whether `rows` may still be added."""
        return self.rows + len(rows) <= self._most_rows and self._bytes + rows.nbytes <= self._most_bytes

    def add(self, rows: Rows) -> None:
        """Adds at the end."""
        self._parts.append(rows)
        self.rows += len(rows)
        self._bytes += rows.nbytes

    def add_newest(self, rows: Rows) -> None:
        """Adds at the end, and lets the oldest go to make room."""
        while self._parts and not self.has_room(rows):
            self._pop()
        if self.has_room(rows):
            self.add(rows)

    def take(self, about: int) -> list[Rows]:
        """Removes and returns the oldest arrays: at least one, more while they are `about` rows together."""
        taken: list[Rows] = []
        count = 0
        while self._parts and (not taken or count + len(self._parts[0]) <= about):
            taken.append(self._pop())
            count += len(taken[-1])
        return taken

    def newest(self, count: int) -> Rows:
        """The newest `count` rows or what there is of them, oldest first; uint8 if all of them are. May be empty."""
        if not self._parts:
            return np.empty((0, 0), np.uint8)
        return np.concatenate(self._parts)[-count:]

    def _pop(self) -> Rows:
        rows = self._parts.popleft()
        self.rows -= len(rows)
        self._bytes -= rows.nbytes
        return rows

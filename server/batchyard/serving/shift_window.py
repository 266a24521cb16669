"""The newest sampled rows of one version, as sums in blocks: old blocks go as new ones come."""

from __future__ import annotations

from collections import deque
from functools import reduce

from batchyard.serving.shift_score import RowSums

BLOCK_ROWS = 256
BLOCKS = 16
WINDOW_ROWS = BLOCK_ROWS * BLOCKS
"""At most so many rows, and a block more while one is being filled."""


class Window:
    """Sums over the newest rows."""

    def __init__(self, channels: int) -> None:
        self._empty = RowSums.none(channels)
        self._filling = self._empty
        self._full: deque[RowSums] = deque(maxlen=BLOCKS)

    @property
    def rows(self) -> int:
        """How many rows `total` is of."""
        return self._filling.rows + sum(block.rows for block in self._full)

    def add(self, more: RowSums) -> None:
        """Takes rows in."""
        self._filling += more
        if self._filling.rows >= BLOCK_ROWS:
            self._full.append(self._filling)
            self._filling = self._empty

    def total(self) -> RowSums:
        """Over every row in the window."""
        return reduce(RowSums.__add__, self._full, self._filling)

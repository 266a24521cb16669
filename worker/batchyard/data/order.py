"""The order in which samples are trained on: a function of (seed, step) alone, whatever the number of workers.

Each epoch visits the training set in a permutation of its own and cuts it into global batches; every batch is whole.
The samples left over at the end of an epoch, fewer than one batch, are not used in that epoch: another permutation
leaves out others. Each worker takes a contiguous share of each global batch, so that N workers together see exactly
the batches that one would.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchyard.data.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which samples make up each global batch. Raises DataError when there are fewer samples than fill one."""

    seed: int
    samples: int
    batch_size: int

    def __post_init__(self) -> None:
        if self.batch_size > self.samples:
            cause = f"data.batch_size: {self.batch_size} given; the training set has {self.samples} samples"
            raise DataError(cause, f"lower data.batch_size to {self.samples} or less")

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches in the training set."""
        return self.samples // self.batch_size

    def place(self, step: int) -> tuple[int, int]:
        """The epoch of `step` (counted from 1) and where its batch begins in that epoch's permutation."""
        epoch, batch = divmod(step - 1, self.batches_per_epoch)
        return epoch, batch * self.batch_size

    def epoch(self, number: int) -> NDArray[np.int64]:
        """The permutation of epoch `number` (counted from 0): [samples]."""
        return permutation(self.seed, number, self.samples)

    def batch(self, step: int) -> NDArray[np.int64]:
        """The global batch of `step` (counted from 1): indices into the training set, [batch_size]."""
        epoch, start = self.place(step)
        return self.epoch(epoch)[start : start + self.batch_size]


def permutation(seed: int, epoch: int, length: int) -> NDArray[np.int64]:
    """The numbers 0 to length-1, shuffled by (seed, epoch).

    Sorts by raw words of Philox 4x64, a counter-based generator (Salmon et al., SC 2011): the highest word of the
    counter is the epoch, so that epochs never overlap, and raw words, unlike numpy's shuffles, never change between
    versions. Equal words keep their order.
    """
    words = np.random.Philox(key=seed, counter=[0, 0, 0, epoch]).random_raw(length)
    return np.argsort(words, kind="stable")


def share(total: int, rank: int, world_size: int) -> range:
    """The contiguous part of `total` things that is `rank`'s; parts differ by at most one and leave nothing out."""
    return range(total * rank // world_size, total * (rank + 1) // world_size)


def micro_shares(batch_size: int, micro_batches: int, rank: int, world_size: int) -> list[range]:
    """Places in a global batch of what is `rank`'s in each of its micro-batches, which are themselves its shares."""
    parts = (share(batch_size, number, micro_batches) for number in range(micro_batches))
    return [part[mine.start : mine.stop] for part in parts for mine in [share(len(part), rank, world_size)]]

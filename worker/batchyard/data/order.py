"""The order in which samples are trained on: a function of (seed, step) alone, whatever the number of workers.

Each epoch visits the training set in a permutation of its own and cuts it into global batches; every batch is whole.
The samples left over at the end of an epoch, fewer than one batch, are not used in that epoch: another permutation
leaves out others. Each worker takes a contiguous share of each global batch, so that N workers together see exactly
the batches that one would.

Shuffling within shards deals the samples into a few shards once and for all; each global batch takes its share from
each shard, and an epoch shuffles every shard by itself. With full shuffling any two samples may meet in a worker's
part of a batch; within shards only those of the same shard. The paper (section 4.2.1) reports about 1% better accuracy
from shuffling within shards than from batches that are always the same; the shards do not depend on the number of
workers, so that neither does the order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchyard.data.errors import DataError

SHARDS = 8
"""Of within-shard shuffling. Workers whose number divides it hold whole shards."""
SHUFFLING, DEALING, AUGMENTING = range(3)
"""What random words are for: each has a stream of its own."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which samples make up each global batch. Raises DataError when there are fewer samples than fill one."""

    seed: int
    samples: int
    batch_size: int
    shuffle: str = "full"
    """full, or within_shard."""

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
        if self.shuffle == "full":
            return permutation(self.seed, number, self.samples)
        return self._within_shards(words(self.seed, SHUFFLING, number, self.samples))

    def _within_shards(self, random: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Each shard in the order of its samples' `random` words, dealt to the batches; the rest comes last."""
        dealt = permutation(self.seed, 0, self.samples, DEALING)
        batches, size = self.batches_per_epoch, self.batch_size
        rows, left_over = np.empty((batches, size), np.int64), []
        for number in range(SHARDS):
            part = share(size, number, SHARDS)
            shard = dealt[self.samples * part.start // size : self.samples * part.stop // size]
            shard = shard[np.argsort(random[shard], kind="stable")]
            used = batches * len(part)
            rows[:, part.start : part.stop] = shard[:used].reshape(batches, len(part))
            left_over.append(shard[used:])
        return np.concatenate([rows.reshape(-1), *left_over])

    def batch(self, step: int) -> NDArray[np.int64]:
        """The global batch of `step` (counted from 1): indices into the training set, [batch_size]."""
        epoch, start = self.place(step)
        return self.epoch(epoch)[start : start + self.batch_size]


def permutation(seed: int, epoch: int, length: int, stream: int = SHUFFLING) -> NDArray[np.int64]:
    """The numbers 0 to length-1, shuffled by (seed, stream, epoch): sorted by random words. Equal words keep their
    order.
    """
    return np.argsort(words(seed, stream, epoch, length), kind="stable")


def words(seed: int, stream: int, block: int, length: int, start: int = 0) -> NDArray[np.uint64]:
    """Random words number `start` (a multiple of 4) to start+length-1 of a block of a stream: [length].

    Raw words of Philox 4x64, a counter-based generator (Salmon et al., SC 2011): the stream is in its key, the block is
    the highest word of its counter, so that blocks never overlap; raw words, unlike numpy's shuffles, never change
    between versions.
    """
    generator = np.random.Philox(key=seed + (stream << 64), counter=[start // 4, 0, 0, block])
    return generator.random_raw(length)


def share(total: int, rank: int, world_size: int) -> range:
    """The contiguous part of `total` things that is `rank`'s; parts differ by at most one and leave nothing out."""
    return range(total * rank // world_size, total * (rank + 1) // world_size)


def micro_shares(batch_size: int, micro_batches: int, rank: int, world_size: int) -> list[range]:
    """Places in a global batch of what is `rank`'s in each of its micro-batches, which are themselves its shares."""
    parts = (share(batch_size, number, micro_batches) for number in range(micro_batches))
    return [part[mine.start : mine.stop] for part in parts for mine in [share(len(part), rank, world_size)]]

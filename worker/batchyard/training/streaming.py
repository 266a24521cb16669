"""Batches of data that does not fit in memory: threads decode ahead of the step that needs them.

The order is that of batches in memory, and so are the batches. What is ahead is bounded by steps, not by time: at most
one batch for each thread and two more.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from batchyard.data import Order, Split, share
from batchyard.data.augment import Augmentation
from batchyard.data.encoded import in_order
from batchyard.data.order import micro_shares
from batchyard.training.batches import Batch, Samples, ShardedBatches
from batchyard.training.group import Group

MORE = 2
"""Batches ahead beyond one for each thread: one that is used, one that is ready."""
CHUNK = 64
"""Held-out samples that a thread decodes at a time."""
EPOCHS = 2
"""Permutations kept: threads are at most in the next epoch."""


class StreamedSamples(Samples):
    """See Samples; nothing is held."""

    def __init__(self, split: Split, device: torch.device, threads: int) -> None:
        self._split, self._device = split, device
        self.ahead = threads + MORE
        self.pool = ThreadPoolExecutor(threads, "decode")
        weakref.finalize(self, self.pool.shutdown, wait=False, cancel_futures=True)

    def __len__(self) -> int:
        return len(self._split)

    def pick(self, indices: torch.Tensor) -> Batch:
        """See Samples; decodes them now."""
        return self.on_device(self.decode(indices.cpu().numpy()))

    def run(self, part: range, size: int) -> Iterator[Batch]:
        """See Samples."""
        for start in range(part.start, part.stop, size):
            stop = min(start + size, part.stop)
            chunks = (np.arange(first, min(first + CHUNK, stop)) for first in range(start, stop, CHUNK))
            decoded = in_order(self.pool, self.decode, chunks, self.ahead)
            images, labels = zip(*map(self.on_device, decoded), strict=True)
            yield torch.cat(images), torch.cat(labels)

    def decode(self, indices: NDArray[np.int64]) -> Batch:
        """Images as bytes, and labels, on the host: in pinned memory where a GPU will fetch them. Thread-safe."""
        images, labels = (torch.from_numpy(array) for array in self._split.read(indices))
        return (images.pin_memory(), labels.pin_memory()) if self._device.type == "cuda" else (images, labels)

    def on_device(self, batch: Batch) -> Batch:
        """What was decoded, on its way to the device; the host does not wait."""
        images, labels = (part.to(self._device, non_blocking=True) for part in batch)
        return images.float(), labels


class StreamedBatches(ShardedBatches):
    """See ShardedBatches. Steps that follow each other are decoded ahead; any other step begins anew."""

    def __init__(
        self,
        samples: StreamedSamples,
        order: Order,
        group: Group,
        micro_batches: int = 1,
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__(samples, order, group, micro_batches, augmentation)
        self._streamed = samples
        self._whole = [share(order.batch_size, group.rank, group.world_size)]
        self._micro = micro_shares(order.batch_size, micro_batches, group.rank, group.world_size)
        self._waiting: dict[tuple[int, range], Future[Batch]] = {}
        self._permutations: dict[int, NDArray[np.int64]] = {}

    def shard(self, step: int) -> Batch:
        """See ShardedBatches. Raises DataError for an image that cannot be decoded."""
        (batch,) = self._batches(step, self._whole)
        return batch

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """See ShardedBatches. Raises DataError for an image that cannot be decoded."""
        yield from self._batches(step, self._micro)

    def _batches(self, step: int, parts: list[range]) -> Iterator[Batch]:
        steps = range(step, step + max(2, self._streamed.ahead // len(parts)))
        self._prepare([(each, part) for each in steps for part in parts])
        for part in parts:
            images, labels = self._streamed.on_device(self._waiting.pop((step, part)).result())
            if self._augmentation is not None:
                images = self._augmentation(images, step, part)
            yield images, labels

    def _prepare(self, wanted: list[tuple[int, range]]) -> None:
        """Has these places of these steps decoded, and drops whatever else was."""
        for key in self._waiting.keys() - set(wanted):
            self._waiting.pop(key).cancel()
        for key in wanted:
            if key not in self._waiting:
                self._waiting[key] = self._streamed.pool.submit(self._streamed.decode, self._indices(*key))

    def _indices(self, step: int, part: range) -> NDArray[np.int64]:
        """The samples at the places `part` of the global batch of `step`."""
        epoch, start = self.order.place(step)
        if epoch not in self._permutations:
            kept = list(self._permutations.items())[1 - EPOCHS :]
            self._permutations = {**dict(kept), epoch: self.order.epoch(epoch)}
        return self._permutations[epoch][start + part.start : start + part.stop]

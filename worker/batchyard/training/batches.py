"""Training batches on the worker's own device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from batchyard.data import Order, Split, share
from batchyard.data.augment import Augmentation
from batchyard.data.order import micro_shares
from batchyard.training.group import Group

Batch = tuple[torch.Tensor, torch.Tensor]
"""Raw pixels [samples, channels, height, width] as fp32, and labels [samples]."""


class Samples:
    """One part of a dataset, held on the device as bytes."""

    def __init__(self, split: Split, device: torch.device) -> None:
        mapped = device.type == "cpu" and isinstance(split.images, np.memmap)
        # Mapped pages are shared with the other workers of the machine; whatever else there is, is copied.
        self._images = torch.from_numpy(split.images) if mapped else torch.tensor(split.images, device=device)
        self._labels = torch.tensor(split.labels, device=device)

    def __len__(self) -> int:
        return len(self._labels)

    def pick(self, indices: torch.Tensor) -> Batch:
        """The samples at `indices` [n], a tensor on the same device."""
        return self._images.index_select(0, indices).float(), self._labels.index_select(0, indices)

    def run(self, part: range, size: int) -> Iterator[Batch]:
        """The samples in `part` in order, at most `size` at a time."""
        for start in range(part.start, part.stop, size):
            rows = slice(start, min(start + size, part.stop))
            yield self._images[rows].float(), self._labels[rows]


class ShardedBatches:
    """One worker's share of each global batch."""

    def __init__(
        self,
        samples: Samples,
        order: Order,
        group: Group,
        micro_batches: int = 1,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.order = order
        self._samples, self._device, self._augmentation = samples, group.device, augmentation
        self._share = share(order.batch_size, group.rank, group.world_size)
        self._micro_shares = micro_shares(order.batch_size, micro_batches, group.rank, group.world_size)
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64)

    def shard(self, step: int) -> Batch:
        """Returns this worker's share of the global batch of `step`, counted from 1."""
        return self._batch(step, self._share)

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """Yields this worker's share of each micro-batch of the global batch of `step`, counted from 1.

        The global batch is cut into micro-batches before those are shared out, so that any number of workers
        normalises by the same ones.
        """
        for part in self._micro_shares:
            yield self._batch(step, part)

    def _batch(self, step: int, part: range) -> Batch:
        """The places `part` of the global batch of `step`."""
        start = self._start(step)
        images, labels = self._samples.pick(self._permutation[start + part.start : start + part.stop])
        if self._augmentation is not None:
            images = self._augmentation(images, step, part)
        return images, labels

    def _start(self, step: int) -> int:
        """Where the batch of `step` begins in the permutation of its epoch, which is now there."""
        epoch, start = self.order.place(step)
        if epoch != self._epoch:
            self._permutation = torch.from_numpy(self.order.epoch(epoch)).to(self._device)  # host sync, once an epoch
            self._epoch = epoch
        return start

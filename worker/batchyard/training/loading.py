"""A job's dataset as its spec asks for it, and what the loop takes from it: batches and held-out samples."""

from __future__ import annotations

import torch

from batchyard import data
from batchyard.data import DataError, Dataset, Options, Order, Split
from batchyard.data.augment import Augmentation, Policy
from batchyard.data.streamed import StreamedSplit
from batchyard.training.batches import Samples, ShardedBatches
from batchyard.training.context import WorkerContext
from batchyard.training.events import LogLine
from batchyard.training.group import Group
from batchyard.training.spec import TrainingJobSpec
from batchyard.training.streaming import StreamedBatches, StreamedSamples

MOST_SHARE = 0.5
"""Of a GPU's memory that data may take; the rest is for the network."""


def load(context: WorkerContext) -> Dataset:
    """Loads the dataset of context.spec, and logs what took time or was left out. Raises DataError."""

    def log(text: str) -> None:
        context.emit(LogLine(level="INFO", text=text, rank=context.rank))

    spec = context.spec.data
    options = Options(
        image_size=spec.image_size,
        test_share=spec.test_share,
        on_error=spec.on_error,
        cache=spec.cache,
        workers=spec.workers,
        most_bytes=_room(context.device),
        log=log,
        note=log if context.rank == 0 else lambda text: None,
    )
    return data.load(spec.dataset, context.data_folders, options)


def batches_of(spec: TrainingJobSpec, dataset: Dataset, group: Group) -> ShardedBatches:
    """The training batches, this worker's share of them: from memory, or streamed. Raises DataError."""
    of_data = spec.data
    order = Order(seed=spec.seed, samples=len(dataset.train), batch_size=of_data.batch_size, shuffle=of_data.shuffle)
    policy = Policy(**vars(of_data.augment))
    augmentation = Augmentation(policy, spec.seed, dataset.image_shape, dataset.mean) if policy else None
    samples = samples_of(spec, dataset.train, group)
    if isinstance(samples, StreamedSamples):
        return StreamedBatches(samples, order, group, spec.accumulate, augmentation)
    return ShardedBatches(samples, order, group, spec.accumulate, augmentation)


def require_same_data(dataset: Dataset, group: Group) -> None:
    """Raises DataError on a worker whose dataset is not that of rank 0. Every worker must call it."""
    samples = f"{len(dataset.train)} training and {len(dataset.test)} test samples"
    mine = f"{samples} of {len(dataset.classes)} classes, their mean {dataset.mean}"
    first = group.from_first(mine.encode()).decode()
    if first != mine:
        cause = f"dataset {dataset.name}: worker {group.rank} has {mine}; worker 0 has {first}"
        raise DataError(cause, "give all machines the same data, and the same data.cache in place of auto")


def samples_of(spec: TrainingJobSpec, split: Split, group: Group) -> Samples:
    """A part of a dataset for this worker: held on its device, or streamed."""
    if isinstance(split, StreamedSplit):
        return StreamedSamples(split, group.device, Options(workers=spec.data.workers).threads)
    return Samples(split, group.device)


def _room(device: str) -> int | None:
    """Bytes of decoded data that the device has room for; None: as on any host."""
    if device != "cuda" or not torch.cuda.is_available():
        return None
    return int(torch.cuda.mem_get_info()[1] * MOST_SHARE)

# Predicted before the first measurement (2 cores; ratios of seconds, or of images/s, to the peer's):
#   CIFAR-10 from 60,000 JPEG files, decoded before    0.06 of decoding it: listing the archive is what remains
#   decoded by 2 threads                               1.3 times one thread: for such small images Python's own work,
#                                                      which is done by one thread at a time, is half of it
#   batches of 128 streamed by 2 threads               0.03 of those from memory
#   batches of 128 with all four augmentations         0.1 of those without: a gather and a dozen passes over 400,000
#                                                      numbers; 5 ms next to a step of 1.5 s of ResNet-18
"""Reading training data: decoded once, streamed, augmented. `python -m bench.data`.

Needs CIFAR-10 as an archive of JPEG files in $BATCHYARD_DATA, or in ../shared/data. One worker, one thread of torch.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from batchyard import data
from batchyard.data import Dataset, Options, Order
from batchyard.data.augment import Augmentation, Policy
from batchyard.training.batches import Samples, ShardedBatches
from batchyard.training.group import Group
from batchyard.training.streaming import StreamedBatches, StreamedSamples
from bench import report

BATCH = 128
STEPS = 20
"""Timed at a time."""
ALL = Policy(flip=True, crop=4, cutout=8, colour_jitter=0.2)


def loading(folders: list[str], options: Options, rounds: int) -> list[report.Row]:
    """Decoding everything, by one thread and by two, and finding it decoded."""

    def decode(threads: int) -> float:
        shutil.rmtree(options.folder / "decoded", ignore_errors=True)
        return _seconds(lambda: data.load("cifar10", folders, dataclasses.replace(options, workers=threads)))

    def before() -> float:
        return _seconds(lambda: data.load("cifar10", folders, options))

    contenders = {"two threads": lambda: decode(2), "decoded before": before, "one thread": lambda: decode(1)}
    decode(2)
    measured = report.alternate(contenders, rounds)
    name = "CIFAR-10 from JPEG files"
    return [
        report.compare(f"{name}, decoded before", measured, "decoded before", "two threads", unit="s"),
        report.compare(f"{name}, two threads", measured, "two threads", "one thread", unit="s"),
    ]


def batches(dataset: Dataset, streamed: Dataset, rounds: int) -> list[report.Row]:
    """Batches from memory, streamed and augmented."""
    group = Group(rank=0, world_size=1, device=torch.device("cpu"))
    order = Order(seed=1, samples=len(dataset.train), batch_size=BATCH)
    samples = Samples(dataset.train, group.device)
    changes = Augmentation(ALL, 1, dataset.image_shape, dataset.mean)
    contenders = {
        "memory": _rate(ShardedBatches(samples, order, group)),
        "augmented": _rate(ShardedBatches(samples, order, group, 1, changes)),
        "streamed": _rate(StreamedBatches(StreamedSamples(streamed.train, group.device, 2), order, group)),
    }
    measured = report.alternate(contenders, rounds)
    unit = "images/s"
    return [
        report.compare("batches of 128, streamed by two threads", measured, "streamed", "memory", unit=unit),
        report.compare("batches of 128, augmented in four ways", measured, "augmented", "memory", unit=unit),
    ]


def _rate(source: ShardedBatches) -> Callable[[], float]:
    """Images a second, over steps that go on where the last measurement ended."""
    steps = itertools.count(1)

    def measure() -> float:
        return BATCH * STEPS / _seconds(lambda: [source.shard(next(steps)) for _ in range(STEPS)])

    measure()
    return measure


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    given = report.arguments(__doc__, "data", rounds=5).parse_args()
    torch.set_num_threads(1)
    folders = [os.environ.get("BATCHYARD_DATA", str(Path("../shared/data")))]
    with tempfile.TemporaryDirectory() as folder:
        options = Options(folder=Path(folder), fetch=False, workers=2)
        rows = loading(folders, options, given.rounds)
        kinds = [dataclasses.replace(options, cache=cache) for cache in ("memory", "stream")]
        memory, stream = (data.load("cifar10", folders, kind) for kind in kinds)
        rows += batches(memory, stream, given.rounds)
    report.publish("data", rows, ("torch", "numpy", "pillow"), given.json)


if __name__ == "__main__":
    main()

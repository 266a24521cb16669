# Predicted before the first measurement: 1.00 against plain SGD, 0.95 against fused SGD. The engine's flat SGD saves
# what its extra work costs: raw pixels normalised in the network, loss and accuracy counted, a vote to stop, and
# activation statistics at every 20th step.
"""The training engine with one worker against a bare PyTorch loop: `python -m bench.training_smoke`.

The paper's MNIST network at batch 60 on random pixels of MNIST's size (speed does not depend on what they show). The
engine runs with everything on: metrics and activation statistics at its usual cadence, and one evaluation at the end,
of a few images. The bare loop is what one writes by hand: images normalised beforehand, nn.BatchNorm, a shuffle each
epoch, the mean loss read at the same cadence. Both run on one thread, and times are processor time.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from batchyard.data import Dataset, Split
from batchyard.training import worker
from batchyard.training.context import WorkerContext
from batchyard.training.group import joined
from batchyard.training.loop import train
from batchyard.training.spec import MetricsSpec, TrainingJobSpec
from bench import report

BAR = 0.97
BATCH = 60
EVERY = MetricsSpec().every_steps


def main() -> None:
    """Prints a table and writes the JSON."""
    parser = report.arguments(__doc__, "training_smoke", rounds=9)
    parser.add_argument("--steps", type=int, default=1000, help="steps of one run (default 1000: one epoch)")
    given = parser.parse_args()
    report.keep_freed_memory()
    torch.set_num_threads(1)
    report.publish("training_smoke", rows(given.rounds, given.steps), ("torch", "numpy"), given.json)


def rows(rounds: int, steps: int) -> list[report.Row]:
    """One row against each optimiser that a bare loop may use."""
    dataset = random_dataset(max(BATCH, 60_000 if steps >= 1000 else BATCH * steps))
    contenders: dict[str, Callable[[], float]] = {
        "engine": lambda: engine(dataset, steps),
        "bare loop, SGD": lambda: bare_loop(dataset, steps, fused=False),
        "bare loop, fused SGD": lambda: bare_loop(dataset, steps, fused=True),
    }
    for contender in contenders.values():
        contender()
    measured = report.alternate(contenders, rounds)
    name = f"one worker, MLP 784-100-100-100-10, batch {BATCH}"
    peers = [peer for peer in contenders if peer != "engine"]
    return [report.compare(name, measured, "engine", peer, unit="samples/s", bar=BAR) for peer in peers]


def random_dataset(samples: int) -> Dataset:
    """Bytes in MNIST's shapes."""
    random = np.random.default_rng(0)

    def split(count: int) -> Split:
        images = random.integers(0, 256, (count, 1, 28, 28), np.uint8)
        return Split(images=images, labels=random.integers(0, 10, count, np.int64))

    return Dataset(name="random", train=split(samples), test=split(BATCH), classes=tuple("0123456789"))


def engine(dataset: Dataset, steps: int) -> float:
    """Samples a second of the engine's loop, from its first step to its last event."""
    spec = {"name": "bench", "model": {"architecture": "mlp"}, "data": {"dataset": "mnist", "batch_size": BATCH}}
    context = WorkerContext(
        job="bench",
        attempt=1,
        spec=TrainingJobSpec.from_mapping({**spec, "steps": steps, "evaluate": {"every_steps": 0}}),
        rank=0,
        world_size=1,
        connect=_nobody_to_meet,
        emit=lambda event: None,
        stop_requested=lambda: False,
        artifact_uri="",
    )
    with joined(context) as group:
        parts = worker.prepare(context, group, dataset)
        began = time.process_time()
        train(context, group, parts)
        return steps * BATCH / (time.process_time() - began)


def _nobody_to_meet() -> NoReturn:
    raise RuntimeError("a lone worker asked for the others")


def by_hand() -> nn.Module:
    """The same network from torch's own layers, for images that are normalised already."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise((784, 100, 100, 100)):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(100, 10))


def bare_loop(dataset: Dataset, steps: int, *, fused: bool) -> float:
    """Samples a second of a training loop as a page of a tutorial has it."""
    mean, std = dataset.mean[0], dataset.std[0]
    images = (torch.tensor(dataset.train.images).float() / 255 - mean) / std
    labels = torch.tensor(dataset.train.labels)
    model = by_hand()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=fused)
    losses, start, order = torch.zeros(()), len(labels), torch.empty(0)
    began = time.process_time()
    for step in range(1, steps + 1):
        if start + BATCH > len(labels):
            start, order = 0, torch.randperm(len(labels))
        batch = order[start : start + BATCH]
        start += BATCH
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses += loss.detach()
        if step % EVERY == 0:
            losses.item()
            losses.zero_()
    return steps * BATCH / (time.process_time() - began)


if __name__ == "__main__":
    main()

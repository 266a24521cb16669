"""What bench/training.py compares on one worker: the engine's own loop, and the loop that one writes by hand.

The engine runs with everything on: metrics and activation statistics at its usual cadence, and at the end an evaluation
of one image. The bare loop has images normalised beforehand, torch's own layers, a shuffle each epoch, and reads its
mean loss at the same cadence.

Runs are as long as the cadence, or many times as long, and the clock starts with the second step, for the first is a
metric point, too: so one step in EVERY is one, as in a long job. A ResNet-18 that is to make as many steps with 128
images each, in a few seconds on one core, has a quarter of its width.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from batchyard import models
from batchyard.data import Dataset, Split
from batchyard.training import worker
from batchyard.training.context import WorkerContext
from batchyard.training.group import joined
from batchyard.training.loop import train
from batchyard.training.spec import MetricsSpec, TrainingJobSpec
from bench import report

EVERY = MetricsSpec().every_steps
LEARNING_RATE = 0.1
WARM_UP = 3
"""Steps: in the first, memory is allocated and kernels are made."""
Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network, its data and the length of one run."""

    name: str
    model: Mapping[str, Any]
    """The job's section."""
    shape: tuple[int, int, int]
    batch: int
    steps: int
    """A multiple of EVERY, for the last one is a metric point."""
    samples: int
    """In the training set: random bytes, for speed does not depend on what images show."""
    classes: int = 10
    by_hand: Callable[[], nn.Module]
    """The same network from torch's own layers, for images that are normalised already."""
    dataset: str = "mnist"
    """A known name that the job may give; nothing is read."""
    job: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the job."""

    def data(self) -> Dataset:
        """Bytes in the right shapes; a test set of one image, so that evaluation does not count."""
        random = np.random.default_rng(0)

        def split(count: int) -> Split:
            images = random.integers(0, 256, (count, *self.shape), np.uint8)
            return Split(images=images, labels=random.integers(0, self.classes, count, np.int64))

        classes = tuple(map(str, range(self.classes)))
        return Dataset(name="random", train=split(self.samples), test=split(1), classes=classes)

    def spec(self, **more: Any) -> TrainingJobSpec:
        """The job."""
        data = {"dataset": self.dataset, "batch_size": self.batch}
        optimizer = {"name": "sgd", "learning_rate": LEARNING_RATE}
        job = {"name": "bench", "model": dict(self.model), "data": data, "optimizer": optimizer, "steps": self.steps}
        return TrainingJobSpec.from_mapping({**job, "evaluate": {"every_steps": 0}, **self.job, **more})


def mlp() -> nn.Module:
    """The paper's network for MNIST."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise((784, 100, 100, 100)):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(100, 10))


def residual(architecture: str, shape: tuple[int, int, int], classes: int, width: float = 1.0) -> nn.Module:
    """A ResNet with torch's own BN layers."""
    plan = models.Plan(image_shape=shape, classes=classes, activation="relu", width=width)
    return nn.Sequential(models.build(architecture, plan, seed=0))


MLP = Case(
    name="MLP 784-100-100-100-10, batch 60",
    model={"architecture": "mlp"},
    shape=(1, 28, 28),
    batch=60,
    steps=1000,
    samples=60_000,
    by_hand=mlp,
)
RESNET18 = Case(
    name="ResNet-18 of quarter width for 32x32, batch 128",  # at full width a step takes 3 s
    model={"architecture": "resnet18", "activation": "relu", "width": 0.25},
    shape=(3, 32, 32),
    batch=128,
    steps=EVERY,
    samples=1024,
    dataset="cifar10",
    by_hand=lambda: residual("resnet18", (3, 32, 32), 10, width=0.25),
)


class Stopwatch:
    """Tells how fast a run is from step number `first` on. It is to be called at the beginning of each step.

    The engine's loop does so by asking whether to stop: the answer is no. `finish` waits for what is under way.
    """

    def __init__(self, clock: Clock, finish: Callable[[], object] = lambda: None, *, first: int = 2) -> None:
        self._clock, self._finish, self._first = clock, finish, first
        self._steps, self._began = 0, 0.0

    def __call__(self) -> bool:
        """Another step begins."""
        self._steps += 1
        if self._steps == self._first:
            self._finish()
            self._began = self._clock()
        return False

    def seconds(self) -> float:
        """Since the first step that counts began, up to now."""
        self._finish()
        return self._clock() - self._began

    def rate(self, batch: int) -> float:
        """Samples a second, up to now, if all steps have ended."""
        return (self._steps - self._first + 1) * batch / self.seconds()


def rows(case: Case, rounds: int, *, fused: tuple[bool, ...] = (False, True), bar: float = 0.97) -> list[report.Row]:
    """On the CPU, on one thread, by processor time: one row against each optimiser that a bare loop may use."""
    torch.set_num_threads(1)
    peers = {f"bare loop, {'fused ' if each else ''}SGD": each for each in fused}
    for contender in _contenders(dataclasses.replace(case, steps=WARM_UP), peers).values():
        contender()
    measured = report.alternate(_contenders(case, peers), rounds)
    name = f"1 worker, {case.name}"
    return [report.compare(name, measured, "engine", peer, unit="samples/s", bar=bar) for peer in peers]


def _contenders(case: Case, peers: Mapping[str, bool]) -> dict[str, Callable[[], float]]:
    dataset, clock = case.data(), time.process_time
    contenders: dict[str, Callable[[], float]] = {"engine": lambda: engine(case, dataset, clock)}
    for name, fused in peers.items():
        contenders[name] = lambda fused=fused: bare_loop(case, dataset, clock, fused=fused)  # type: ignore[misc]
    return contenders


def engine(case: Case, dataset: Dataset, clock: Clock, device: str = "cpu", *, first: int = 2) -> float:
    """Samples a second of the engine's loop, from step number `first` to its last event."""
    spec = case.spec(workers={"count": 1, "gpus_per_worker": int(device == "cuda")})
    stopwatch = Stopwatch(clock, lambda: finish(device), first=first)
    context = context_of(spec, device=device, stop_requested=stopwatch)
    with joined(context) as group:
        train(context, group, worker.prepare(context, group, dataset))
        return stopwatch.rate(case.batch)


def context_of(spec: TrainingJobSpec, **more: Any) -> WorkerContext:
    """A worker whose events go nowhere; alone if nothing else is said."""
    given: dict[str, Any] = {
        "emit": lambda event: None,
        "rank": 0,
        "world_size": 1,
        "connect": _nobody_to_meet,
        "stop_requested": lambda: False,
        **more,
    }
    return WorkerContext(job="bench", attempt=1, spec=spec, artifact_uri="", **given)


def _nobody_to_meet() -> NoReturn:
    raise RuntimeError("a lone worker asked for the others")


def finish(device: str) -> None:
    """Waits for what is under way."""
    if device == "cuda":
        torch.cuda.synchronize()


def bare_loop(case: Case, dataset: Dataset, clock: Clock, *, fused: bool) -> float:
    """Samples a second of a training loop as a page of a tutorial has it, on the CPU."""
    model = case.by_hand()
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, fused=fused)
    batches = shuffled(*normalised(dataset), case.batch)
    losses, stopwatch = torch.zeros(()), Stopwatch(clock)
    for step in range(1, case.steps + 1):
        stopwatch()
        images, labels = next(batches)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses += loss.detach()
        if step % EVERY == 0:
            losses.item()
            losses.zero_()
    return stopwatch.rate(case.batch)


def normalised(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """All training images as floats, and their labels."""
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (dataset.mean, dataset.std))
    return (torch.tensor(dataset.train.images).float() / 255 - mean) / std, torch.tensor(dataset.train.labels)


def shuffled(images: Tensor, labels: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in a new order each epoch, for ever."""
    while True:
        order = torch.randperm(len(labels), device=labels.device)
        for start in range(0, len(labels) - batch + 1, batch):
            chosen = order[start : start + batch]
            yield images[chosen], labels[chosen]

"""What ActivationStats adds to a training step of small networks. A part of bench/nn.py.

Two kinds of step are timed by turns: plain ones, and points, as the training loop makes them: hooks on, forward pass,
hooks off, and for several points that are close together, one collection. One step of CADENCE is a point, so that a
mean step costs (CADENCE - 1) plain ones and a point, divided by CADENCE: between points there are no hooks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from batchyard import models
from batchyard.models.resnet import resnet
from batchyard.nn import ActivationStats, convert_sync_batchnorm
from batchyard.nn.activation_stats import MOST_POINTS
from batchyard.training.spec import MetricsSpec
from batchyard.training.watch import PATIENCE
from bench import report

BAR = 1.02
CADENCE = MetricsSpec().every_steps
"""The loop's own: it measures one step in so many."""
BATCH = 60
RESNET = models.Plan(image_shape=(3, 64, 64), classes=10, activation="relu", width=1 / 4)


def rows(rounds: int) -> list[report.Row]:
    """Two rows for each network: a point against a plain step, and the mean step at the loop's cadence."""
    torch.set_num_threads(1)
    found = []
    for name, (network, shape) in NETWORKS.items():
        measured = report.alternate(_timers(network, shape), rounds)
        pairs = zip(measured["without"], measured["point"], strict=True)
        measured["cadence"] = [((CADENCE - 1) * plain + point) / CADENCE for plain, point in pairs]
        label = f"training step with statistics, {name}"
        for kind, title, bar in (("point", "at every step", None), ("cadence", f"at every {CADENCE}th", BAR)):
            row = report.compare(f"{label}, {title}", measured, kind, "without", unit="us", bar=bar, scale=1e6)
            found.append(row)
    return found


def _timers(network: Callable[[], nn.Module], shape: tuple[int, ...]) -> dict[str, Callable[[], float]]:
    """Both on one model: where its tensors lie would tell two models apart by more than is measured here."""
    step = _Step(network(), shape)
    plain = report.timer(step)
    together = min(MOST_POINTS, math.ceil(PATIENCE / (CADENCE * plain())))
    points = report.timer(lambda: step.points(together))
    return {"without": plain, "point": lambda: points() / together}


class _Step:
    """A whole training step on fixed random data."""

    def __init__(self, network: nn.Module, shape: tuple[int, ...]) -> None:
        self._model = convert_sync_batchnorm(network).train()
        self._optimizer = torch.optim.SGD(self._model.parameters(), 0.01, fused=True)
        generator = torch.Generator().manual_seed(0)
        self._x = torch.randn(shape, generator=generator)
        self._labels = torch.randint(0, 10, (shape[0],), generator=generator)
        self._statistics = ActivationStats(self._model)
        self.points(1)  # finds out which activation reads which layer

    def __call__(self) -> None:
        self._optimizer.zero_grad()
        F.cross_entropy(self._model(self._x), self._labels).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def points(self, count: int) -> None:
        """As many steps that are points, collected together."""
        for _ in range(count):
            self._statistics.enabled = True
            self()
            self._statistics.end_point()
            self._statistics.enabled = False
        self._statistics.collect_points()


def _built(architecture: str) -> nn.Module:
    return models.build(architecture, models.Plan(image_shape=(1, 28, 28), classes=10), seed=0)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp 784-100-100-100-10, batch 60": (lambda: _built("mlp"), (BATCH, 1, 28, 28)),
    "lenet, batch 60": (lambda: _built("lenet"), (BATCH, 1, 28, 28)),
    "ResNet-14 of width 16, batch 16 at 64x64": (
        lambda: nn.Sequential(resnet(RESNET, (1, 1, 1, 1), bottleneck=True)),
        (16, 3, 64, 64),
    ),
}

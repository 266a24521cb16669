"""What ActivationStats adds to a training step of small networks. A part of bench/nn.py.

Three kinds of step are timed by turns: without statistics, with statistics that rest, and with statistics that measure
and are then collected. The loop measures one step of CADENCE, so that a mean step costs (CADENCE - 1) resting ones and
one measuring, divided by CADENCE.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from batchyard import models
from batchyard.nn import ActivationStats, convert_sync_batchnorm
from batchyard.training.spec import MetricsSpec
from bench import report
from bench.resnet import resnet

BAR = 1.02
CADENCE = MetricsSpec().every_steps
"""The loop's own: it measures one step in so many."""
BATCH = 60


def rows(rounds: int) -> list[report.Row]:
    """Two rows for each network: measuring at every step, and at the loop's cadence."""
    torch.set_num_threads(1)
    found = []
    for name, (network, shape) in NETWORKS.items():
        measured = report.alternate(_timers(network, shape), rounds)
        pairs = zip(measured["resting"], measured["every step"], strict=True)
        measured["cadence"] = [((CADENCE - 1) * rest + measuring) / CADENCE for rest, measuring in pairs]
        label = f"training step with statistics, {name}"
        for kind, title, bar in (
            ("every step", "at every step", None),
            ("cadence", f"at every {CADENCE}th", BAR),
        ):
            row = report.compare(f"{label}, {title}", measured, kind, "without", unit="us", bar=bar, scale=1e6)
            found.append(row)
    return found


def _timers(network: Callable[[], nn.Module], shape: tuple[int, ...]) -> dict[str, Callable[[], float]]:
    return {
        "without": report.timer(_step(network(), shape, statistics=False)),
        "resting": report.timer(_step(network(), shape, statistics=True, enabled=False)),
        "every step": report.timer(_step(network(), shape, statistics=True)),
    }


def _step(
    network: nn.Module, shape: tuple[int, ...], *, statistics: bool, enabled: bool = True
) -> Callable[[], object]:
    """A whole training step on fixed random data."""
    model = convert_sync_batchnorm(network).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=True)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    labels = torch.randint(0, 10, (shape[0],), generator=generator)
    watching = ActivationStats(model) if statistics else None
    if watching is not None:
        watching.enabled = enabled

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if watching is not None and enabled:
            watching.collect()

    return step


def _built(architecture: str) -> nn.Module:
    return models.build(architecture, models.Plan(image_shape=(1, 28, 28), classes=10), seed=0)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp 784-100-100-100-10, batch 60": (lambda: _built("mlp"), (BATCH, 1, 28, 28)),
    "lenet, batch 60": (lambda: _built("lenet"), (BATCH, 1, 28, 28)),
    "ResNet-14 of width 16, batch 16 at 64x64": (
        lambda: resnet((1, 1, 1, 1), width=16, classes=10),
        (16, 3, 64, 64),
    ),
}

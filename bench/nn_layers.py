"""One BN layer in one process: forward and backward of SyncBatchNorm against nn.BatchNorm. A part of bench/nn.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor, nn

from batchyard.nn import SyncBatchNorm
from bench import report

BAR = 1.05
"""A single process costs no more than nn.BatchNorm: 1, and what medians on a shared machine cannot tell apart. The
control row, nn.BatchNorm against itself, shows how much that is."""

SLICE_SECONDS, SLICES = 0.002, 5
"""A turn of each contender, and turns for each round asked for: on a machine that others use, what slows one turn down
must slow the other's as well."""


@dataclass(frozen=True)
class Case:
    """An input of a BN layer."""

    shape: tuple[int, ...]
    memory_format: torch.memory_format = torch.contiguous_format

    def __str__(self) -> str:
        return f"{list(self.shape)}{' channels_last' if self.memory_format == torch.channels_last else ''}"

    def input(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
        """Random values, of mean 1 and standard deviation 2, that need a gradient."""
        generator = torch.Generator().manual_seed(0)
        x = (torch.randn(self.shape, generator=generator) * 2 + 1).to(device, dtype)
        return x.contiguous(memory_format=self.memory_format).requires_grad_()

    def batch_norm(self) -> nn.Module:
        """Torch's own layer for this shape."""
        return {2: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(self.shape)](self.shape[1])


MLP = [Case((60, 100)), Case((240, 100))]
"""Hidden layers of the paper's MNIST network at batch 60 and 240."""
RESNET = [(4, 64, 56, 56), (4, 512, 28, 28), (8, 2048, 7, 7)]
"""Inputs of BN layers of a ResNet-50 on four (last: eight) images of 224x224."""
CASES = MLP + [Case(shape, form) for shape in RESNET for form in (torch.contiguous_format, torch.channels_last)]


def forward_backward(layer: nn.Module, x: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """A call that computes the layer's output and all its gradients, with `x` as the output's gradient too.

    Contenders should share `x`: where the system happened to place a tensor of megabytes changes times by half.
    """
    leaves = (x, *layer.to(x.device).parameters())
    dy = x.detach()
    return lambda: torch.autograd.grad(layer(x), leaves, dy)


def rows(rounds: int) -> list[report.Row]:
    """One row for each case, and the control."""
    torch.set_num_threads(1)
    control = _measured(MLP[0], lambda case: case.batch_norm(), rounds)
    name = f"control: nn.BatchNorm against itself, {MLP[0]}"
    found = [report.compare(name, control, "ours", "nn.BatchNorm", unit="us", scale=1e6)]
    for case in CASES:
        measured = _measured(case, lambda case: SyncBatchNorm(case.shape[1]), rounds)
        name = f"1 process, fp32, {case}"
        found.append(report.compare(name, measured, "ours", "nn.BatchNorm", unit="us", bar=BAR, scale=1e6))
    return found


def _measured(case: Case, ours: Callable[[Case], nn.Module], rounds: int) -> report.Rounds:
    contenders, x = {"ours": ours(case), "nn.BatchNorm": case.batch_norm()}, case.input()
    calls = {name: forward_backward(layer, x) for name, layer in contenders.items()}
    timers = {name: _displaced(report.timer(call, seconds=SLICE_SECONDS)) for name, call in calls.items()}
    return report.alternate(timers, rounds * SLICES)


def _displaced(measure: Callable[[], float]) -> Callable[[], float]:
    """Measures with some memory taken, another amount each time.

    Else one contender's outputs lie at one place all the time, and how that place meets the caches and the input's is
    worth 5% either way.
    """
    random = Random(0)

    def displaced() -> float:
        held = [torch.empty(random.randrange(1 << 14, 1 << 16)) for _ in range(3)]
        seconds = measure()
        del held
        return seconds

    return displaced

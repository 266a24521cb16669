"""What one worker keeps of the layers that ActivationStats watches, until the sums are wanted.

In a step of 1 ms every kernel counts: a forward pass only copies a few thousand values of each layer.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchyard.nn.sync_batchnorm import SyncBatchNorm

MOST_VALUES = 16384
"""Values of a layer that one forward pass keeps, or a few samples' worth."""
LEAST_SAMPLES = 8
MOST_KEPT = 4 * MOST_VALUES
"""Values of a layer after which further forward passes of the same point are not measured."""
SATURATED_ABOVE: dict[type[nn.Module], float] = {nn.Sigmoid: 4.0, nn.Tanh: 2.0}
"""abs(z) beyond which the slope is below 8% of its largest; tanh(z) = 2 sigmoid(2z) - 1."""
STANDARDISING = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, SyncBatchNorm)
"""Layers whose output has mean beta and standard deviation abs(gamma) in every channel; those built on them may not."""


class Point(NamedTuple):
    """What this worker saw of all layers in the forward passes that belong together."""

    samples: Sequence[Sequence[Tensor]]
    """Of each layer and forward pass a copy of the input x and of z, which the nonlinearity reads: [2, n, C, ...], or
    [1, n, C, ...] where x is z."""
    smallest_batches: Sequence[int]
    """Of each layer, 0 for one that was not measured."""
    running: Tensor | None
    """Running means of all channels of all layers, then running variances; None where no layer has any."""
    skipped: Tensor | None
    """Of each layer that counts them, the batches so far that did not count because they were not finite."""
    affine: Tensor | None
    """gamma of all channels of all layers, then beta; None unless every layer standardises what it normalises."""


class WatchedLayer:
    """One measured layer: a BN layer, whose output is z, or an activation, whose input is z."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.module = name, module
        self.normalises = isinstance(module, _BatchNorm)
        self.standardises = type(module) in STANDARDISING
        self.activation: type[nn.Module] | None = None if self.normalises else type(module)
        self.channels = module.num_features if isinstance(module, _BatchNorm) else 0
        self.samples: list[Tensor] = []
        self.smallest_batch = 0
        """Values per channel of the smallest batch that this worker normalised since the last `take`; 0: none."""
        self._kept = 0
        self._output: weakref.ref[Tensor] | None = None

    @property
    def tracks(self) -> bool:
        """Whether there are running statistics to drift from."""
        return self._buffer("running_mean") is not None

    @property
    def skipped(self) -> Tensor | None:
        """Counts the batches that did not count because they were not finite."""
        return self._buffer("skipped_batches")

    @property
    def running(self) -> tuple[Tensor, Tensor]:
        """Running mean and variance, [C] each; 0 and 1 where there are none."""
        mean, var = self._buffer("running_mean"), self._buffer("running_var")
        if mean is not None and var is not None:
            return mean, var
        like = next(self.module.parameters(), torch.empty(0))
        return like.new_zeros(self.channels), like.new_ones(self.channels)

    @property
    def affine(self) -> tuple[Tensor, Tensor]:
        """Gamma and beta, [C] each; 1 and 0 where there are none."""
        gamma, beta = self.module._parameters.get("weight"), self.module._parameters.get("bias")
        if gamma is not None and beta is not None:
            return gamma, beta
        mean, _ = self.running
        return mean.new_ones(self.channels) if gamma is None else gamma, mean.new_zeros(self.channels)

    def _buffer(self, name: str) -> Tensor | None:
        # Straight from the dictionary: nn.Module's attribute access costs as much as a small kernel.
        return self.module._buffers.get(name)

    @property
    def limit(self) -> float | None:
        """abs(z) above which the nonlinearity is flat; that of the sigmoid where the nonlinearity is not known."""
        return SATURATED_ABOVE.get(self.activation or nn.Sigmoid)

    def recognise(self, activation: nn.Module, z: Tensor) -> None:
        """Notes that `activation` reads this layer, if z is what the layer returned last."""
        if self._output is not None and self._output() is z:
            self.activation, self._output = type(activation), None

    def measure(self, x: Tensor, output: Tensor) -> int:
        """Looks at one forward pass; returns how many values were kept."""
        if self.activation is None:
            self._output = weakref.ref(output)
        self.channels = x.shape[1] if x.dim() > 1 else 1
        values = x.numel()
        if not values or x.dim() < 2:
            return 0
        batch = self._normalised_over(len(x)) * (values // (len(x) * self.channels))
        self.smallest_batch = min(batch, self.smallest_batch or batch)
        if self._kept >= MOST_KEPT:
            return 0
        x, z = x.detach(), output.detach()
        keep = max(LEAST_SAMPLES, len(x) * MOST_VALUES // values)
        if keep < len(x):
            x, z = x[:keep], z[:keep]
        # Copied, for the activation may overwrite z.
        self.samples.append(torch.stack((x, z)) if self.normalises else x.clone().unsqueeze(0))
        self._kept += x.numel()
        return x.numel()

    def _normalised_over(self, samples: int) -> int:
        """Of `samples` of this worker, how many at the least share their statistics."""
        ghost_size = getattr(self.module, "ghost_size", None)
        return samples if ghost_size is None else samples // -(-samples // ghost_size)

    def take(self) -> tuple[list[Tensor], int]:
        """The samples and the smallest batch since the last call."""
        taken = self.samples, self.smallest_batch
        self.samples, self.smallest_batch, self._kept = [], 0, 0
        return taken


def end_point(layers: Sequence[WatchedLayer]) -> Point:
    """What the layers have seen since the last call; they start afresh."""
    samples, smallest_batches = zip(*[layer.take() for layer in layers], strict=True)
    running = None
    if any(layer.tracks for layer in layers):
        means, variances = zip(*[layer.running for layer in layers], strict=True)
        running = torch.cat([*means, *variances])
    affine = None
    if all(layer.standardises for layer in layers):
        gammas, betas = zip(*[layer.affine for layer in layers], strict=True)
        affine = torch.cat([*gammas, *betas])
    counters = [counter for layer in layers if (counter := layer.skipped) is not None]
    return Point(samples, smallest_batches, running, torch.stack(counters) if counters else None, affine)

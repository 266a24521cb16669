"""The sums behind ActivationStats: taken in forward passes with few kernels, added up over workers at once.

In a step of 1 ms every kernel counts: a layer of 100 units is measured with about ten of them, and what can wait until
the sums are collected is done for all layers together.
"""

from __future__ import annotations

import functools
import math
import weakref
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchyard.nn.moments import local_moments

BINS = 240
REACH = 6.0
"""The grid covers +-6 standard deviations: 0.05 each bin."""
PERCENTILES = (0.15, 0.50, 0.85)
_MIDDLES = torch.linspace(-REACH + REACH / BINS, REACH - REACH / BINS, BINS, dtype=torch.float64)
_POWERS = torch.stack([torch.ones_like(_MIDDLES), _MIDDLES, _MIDDLES.square()], 1)
"""0th to 2nd power of the middle of each bin, [240, 3]."""
MOST_VALUES = 16384
"""Values that one measurement looks at, or a few samples' worth; and that it bins, thinned out evenly."""
LEAST_SAMPLES = 8
MOST_STEPS = 16
"""Measurements that are kept before they are added up."""
SATURATED_ABOVE: dict[type[nn.Module], float] = {nn.Sigmoid: 4.0, nn.Tanh: 2.0}
"""abs(z) beyond which the slope is below 8% of its largest; tanh(z) = 2 sigmoid(2z) - 1."""


class _Step(NamedTuple):
    """One measurement of one layer."""

    histogram: Tensor
    saturated: Tensor
    alive: Tensor
    """Whether some gradient flows through a channel, [C]."""
    mean: Tensor
    """Of the layer's input, [C]."""
    var: Tensor
    values: int
    """Values in the histogram."""
    samples: int
    """Values per channel behind mean and var."""


class WatchedLayer:
    """One measured layer: a BN layer, whose output is z, or an activation, whose input is z."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.module = name, module
        self.normalises = isinstance(module, _BatchNorm)
        self.activation: type[nn.Module] | None = None if self.normalises else type(module)
        self.channels = 0
        self.location, self.scale = 0.0, 4.0
        self._steps: list[_Step] = []
        self._output: weakref.ref[Tensor] | None = None
        if isinstance(module, _BatchNorm):
            self.channels = module.num_features
            self.location, self.scale = _predicted_grid(module)

    @property
    def tracks(self) -> bool:
        """Whether there are running statistics to drift from."""
        return isinstance(self.module, _BatchNorm) and self.module.running_mean is not None

    @property
    def measured(self) -> bool:
        """Whether anything was measured since the last `take`."""
        return bool(self._steps)

    @property
    def skipped(self) -> int:
        """Batches so far that did not count because they were not finite."""
        counter = getattr(self.module, "skipped_batches", None)
        return 0 if counter is None else int(counter)

    def recognise(self, activation: nn.Module, z: Tensor) -> None:
        """Notes that `activation` reads this layer, if z is what the layer returned last."""
        if self._output is not None and self._output() is z:
            self.activation, self._output = type(activation), None

    def measure(self, x: Tensor, output: Tensor) -> None:
        """Takes the sums of one forward pass."""
        if self.activation is None:
            self._output = weakref.ref(output)
        self.channels = x.shape[1] if x.dim() > 1 else 1
        if not x.numel() or x.dim() < 2:
            return
        keep = max(LEAST_SAMPLES, len(x) * MOST_VALUES // x.numel())
        x, output = x[:keep], output[:keep]
        z = (output if self.normalises else x).detach().float()
        values = _thinned(z)
        low, high = self.location - REACH * self.scale, self.location + REACH * self.scale
        histogram = torch.histc(values.clamp(low, high), BINS, low, high)
        limit = SATURATED_ABOVE.get(self.activation or nn.Sigmoid)
        saturated = histogram.new_zeros(()) if limit is None else (values.abs() > limit).sum()
        mean, var = local_moments(x.detach())
        samples = x.numel() // self.channels
        self._steps.append(_Step(histogram, saturated, self._alive(z, limit), mean, var, values.numel(), samples))
        if len(self._steps) > MOST_STEPS:
            self._steps = [self.take()]

    def _alive(self, z: Tensor, limit: float | None) -> Tensor:
        others = [d for d in range(z.dim()) if d != 1]
        if limit is not None and self.activation is not None:
            return z.abs().amin(others) <= limit
        return z.amax(others) > 0

    def take(self) -> _Step:
        """The sums since the last call; zeros where nothing was measured."""
        steps, self._steps = self._steps, []
        if not steps:
            device = next((t.device for t in self.module.parameters()), torch.device("cpu"))
            nothing = torch.zeros(BINS + self.channels, device=device)
            histogram, channels = nothing[:BINS], nothing[BINS:]
            return _Step(histogram, histogram[0], channels, channels, channels, 0, 0)
        return steps[0] if len(steps) == 1 else _merged(steps)


def _merged(steps: list[_Step]) -> _Step:
    """Several measurements as one; their batches count as one batch."""
    samples = sum(step.samples for step in steps)
    weights = torch.tensor([step.samples / samples for step in steps], dtype=torch.float64).view(-1, 1)
    means, variances = (torch.stack(parts).double() for parts in zip(*((s.mean, s.var) for s in steps), strict=True))
    weights = weights.to(means.device)
    mean = (weights * means).sum(0)
    var = (weights * (variances + (means - mean).square())).sum(0)
    kinds = zip(*((s.histogram, s.saturated, s.alive) for s in steps), strict=True)
    histogram, saturated, alive = (torch.stack(parts).double().sum(0) for parts in kinds)
    return _Step(histogram, saturated, alive, mean, var, sum(step.values for step in steps), samples)


class Shared(NamedTuple):
    """One layer's statistics over all workers; the fields are those of LayerActivations."""

    percentiles: tuple[float, ...]
    saturated: float
    dead: float
    drift: float
    spread: float
    samples: int


def pack_sums(layers: list[WatchedLayer]) -> Tensor:
    """What is added up over workers, for all layers at once, in fp64 and kind after kind.

    Histograms [L, 240], saturated [L], values [L], samples [L], and for all channels of all layers, [sum of C] each:
    alive, m * mu, m * E[x^2], m * (this worker's mu)^2.
    """
    steps = [layer.take() for layer in layers]
    histograms = torch.cat([step.histogram for step in steps]).double()
    saturated = torch.stack([step.saturated for step in steps]).double()
    kinds = zip(*((step.alive, step.mean, step.var) for step in steps), strict=True)
    alive, mean, var = (torch.cat(parts).double() for parts in kinds)
    counts = [[step.values for step in steps], [step.samples for step in steps]]
    counted = torch.tensor(counts, dtype=torch.float64).to(mean.device)
    samples = counted[1][_owners(tuple(layer.channels for layer in layers), mean.device)]
    total = mean * samples
    between = total * mean
    return torch.cat([histograms, saturated, counted.view(-1), alive, total, between + var * samples, between])


@functools.lru_cache(maxsize=16)
def _owners(channels: tuple[int, ...], device: torch.device) -> Tensor:
    """For every channel of every layer, which layer it belongs to."""
    return torch.repeat_interleave(torch.arange(len(channels)), torch.tensor(channels)).to(device)


def share(layers: list[WatchedLayer], packed: Tensor) -> list[Shared | None]:
    """Each layer's statistics from the sums of all workers; None for one that none measured. Moves the grids."""
    channels = tuple(layer.channels for layer in layers)
    count, owners = len(layers), _owners(channels, torch.device("cpu"))
    sizes = [BINS * count, count, count, count, *[len(owners)] * 4]
    histograms, saturated, values, samples, alive, *sums = torch.split(packed.cpu(), sizes)
    histograms = histograms.view(count, BINS)
    mean, square, between = (part / samples[owners] for part in sums)
    var = (square - mean.square()).clamp(min=0)
    spread = (between - mean.square()).clamp(min=0) / var.clamp(min=1e-24)
    per_channel = torch.stack([(alive == 0).double(), _drift(layers, owners, mean, var), spread], 1)
    totals = torch.zeros(count, 3, dtype=torch.float64).index_add_(0, owners, per_channel).tolist()
    means = [[total / max(c, 1) for total in row] for row, c in zip(totals, channels, strict=True)]
    percentiles = _percentiles(layers, histograms).tolist()
    _move_grids(layers, histograms)
    shares, counted = (saturated / values).tolist(), samples.tolist()
    return [
        Shared(tuple(percentiles[i]), shares[i], dead, math.sqrt(drift), math.sqrt(apart), int(counted[i]))
        if counted[i]
        else None
        for i, (dead, drift, apart) in enumerate(means)
    ]


def _percentiles(layers: list[WatchedLayer], histograms: Tensor) -> Tensor:
    """15th, 50th and 85th percentile of z of each layer, [L, 3], interpolated within a bin."""
    cumulated = histograms.cumsum(1)
    wanted = cumulated[:, -1:] * cumulated.new_tensor(PERCENTILES)
    bins = torch.searchsorted(cumulated, wanted)
    below = torch.where(bins > 0, cumulated.gather(1, (bins - 1).clamp(min=0)), 0.0)
    place = bins + (wanted - below) / (cumulated.gather(1, bins.clamp(max=BINS - 1)) - below)
    grids = cumulated.new_tensor([(layer.location, layer.scale) for layer in layers])
    return grids[:, :1] + grids[:, 1:] * (place * (2 * REACH / BINS) - REACH)


def _move_grids(layers: list[WatchedLayer], histograms: Tensor) -> None:
    """To where the values are: equal on all workers, because the histograms are those of all workers."""
    for layer, (total, mean, square) in zip(layers, (histograms @ _POWERS).tolist(), strict=True):
        if total:
            mean, square = mean / total, square / total
            layer.location += layer.scale * mean
            layer.scale = max(1e-6, layer.scale * math.sqrt(max(square - mean * mean, 0.0)))


def _drift(layers: list[WatchedLayer], owners: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """For every channel ((mu_B - mu)^2 + (sigma_B - sigma)^2) / sigma^2; 0 without running statistics."""
    if not any(layer.tracks for layer in layers):
        return torch.zeros_like(mean)
    buffers = [_running_statistics(layer) for layer in layers]
    running_mean, running_var = (torch.cat(parts).double().cpu() for parts in zip(*buffers, strict=True))
    eps = mean.new_tensor([float(getattr(layer.module, "eps", 0.0)) for layer in layers])[owners]
    sigma, running_sigma = (var + eps).sqrt(), (running_var + eps).sqrt()
    return ((mean - running_mean).square() + (sigma - running_sigma).square()) / (running_var + eps)


def _running_statistics(layer: WatchedLayer) -> tuple[Tensor, Tensor]:
    bn = layer.module
    if isinstance(bn, _BatchNorm) and bn.running_mean is not None and bn.running_var is not None:
        return bn.running_mean, bn.running_var
    return torch.zeros(layer.channels), torch.ones(layer.channels)


def _predicted_grid(bn: _BatchNorm) -> tuple[float, float]:
    """What gamma and beta predict for z over all channels: mean E[beta], variance E[gamma^2] + Var[beta]."""
    if bn.weight is None or bn.bias is None:
        return 0.0, 1.0
    gamma, beta = bn.weight.detach().double(), bn.bias.detach().double()
    return float(beta.mean()), max(1e-6, math.sqrt(gamma.square().mean() + beta.var(correction=0)))


def _thinned(z: Tensor) -> Tensor:
    """At most MOST_VALUES of the values of z, evenly spaced, with a step that meets every channel and place."""
    step = -(-z.numel() // MOST_VALUES)
    if step == 1:
        return z
    while math.gcd(step, z.numel()) > 1:
        step += 1
    return z.flatten()[::step]

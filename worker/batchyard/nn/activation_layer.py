"""What one worker sees of the layers that ActivationStats watches.

In a step of 1 ms every kernel counts. A forward pass only copies a few thousand values of each layer; when the sums are
wanted, layers of like shape are measured together, and the histograms of all layers are one count.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchyard.nn.moments import averaged_dims, local_moments

BINS = 240
REACH = 6.0
"""The grid covers +-6 standard deviations: 0.05 each bin."""
MOST_VALUES = 16384
"""Values that one measurement looks at, or a few samples' worth; and that it bins, thinned out evenly."""
LEAST_SAMPLES = 8
MOST_KEPT = 4 * MOST_VALUES
"""Values that are worth a copy, to be measured later together with those of other layers."""
MOST_STEPS = 16
"""Measurements that are kept before they are added up."""
SATURATED_ABOVE: dict[type[nn.Module], float] = {nn.Sigmoid: 4.0, nn.Tanh: 2.0}
"""abs(z) beyond which the slope is below 8% of its largest; tanh(z) = 2 sigmoid(2z) - 1."""


class Sample(NamedTuple):
    """What one forward pass showed of one layer."""

    layer: WatchedLayer
    x: Tensor
    """Its input."""
    z: Tensor
    """What the nonlinearity reads; the activation may have overwritten the layer's own output since."""


class Sums(NamedTuple):
    """What adds up over steps and workers, of one layer."""

    histogram: Tensor
    passing: Tensor
    """Values that some gradient flows through, [C]."""
    saturated: Tensor
    """Values beyond saturation, [C]."""
    mean: Tensor
    """Of the layer's input, [C]."""
    var: Tensor
    samples: int
    """Values per channel behind all the others."""


class WatchedLayer:
    """One measured layer: a BN layer, whose output is z, or an activation, whose input is z."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.module = name, module
        self.normalises = isinstance(module, _BatchNorm)
        self.activation: type[nn.Module] | None = None if self.normalises else type(module)
        self.channels = 0
        self.location, self.scale = 0.0, 4.0
        self.samples: list[Sample] = []
        self.smallest_batch: int | None = None
        """Values per channel of the smallest batch that this worker normalised since it was last set to None."""
        self._sums: list[Sums] = []
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
        return bool(self.samples or self._sums)

    @property
    def skipped(self) -> int:
        """Batches so far that did not count because they were not finite."""
        counter = getattr(self.module, "skipped_batches", None)
        return 0 if counter is None else int(counter)

    @property
    def limit(self) -> float | None:
        """abs(z) above which the nonlinearity is flat; that of the sigmoid where the nonlinearity is not known."""
        return SATURATED_ABOVE.get(self.activation or nn.Sigmoid)

    def recognise(self, activation: nn.Module, z: Tensor) -> None:
        """Notes that `activation` reads this layer, if z is what the layer returned last."""
        if self._output is not None and self._output() is z:
            self.activation, self._output = type(activation), None

    def measure(self, x: Tensor, output: Tensor) -> None:
        """Looks at one forward pass."""
        if self.activation is None:
            self._output = weakref.ref(output)
        self.channels = x.shape[1] if x.dim() > 1 else 1
        values = x.numel()
        if not values or x.dim() < 2:
            return
        batch = self._normalised_over(len(x)) * (values // (len(x) * self.channels))
        self.smallest_batch = batch if self.smallest_batch is None else min(batch, self.smallest_batch)
        x, z = x.detach(), output.detach() if self.normalises else x.detach()
        keep = max(LEAST_SAMPLES, len(x) * MOST_VALUES // values)
        if keep < len(x):
            x, z = x[:keep], z[:keep]
        if z.numel() > MOST_KEPT:
            self._sums += measured([Sample(self, x, z.float())])
        else:
            self.samples.append(Sample(self, x.clone(), z.to(torch.float32, copy=True)))
        if len(self.samples) + len(self._sums) > MOST_STEPS:
            self._sums = [self.take(measured(self.samples))]

    def _normalised_over(self, samples: int) -> int:
        """Of `samples` of this worker, how many at the least share their statistics."""
        ghost_size = getattr(self.module, "ghost_size", None)
        return samples if ghost_size is None else samples // -(-samples // ghost_size)

    def take(self, new: Sequence[Sums]) -> Sums:
        """The sums since the last call, `new` those of `samples`; zeros where nothing was measured."""
        sums, self._sums, self.samples = [*self._sums, *new], [], []
        if not sums:
            device = next((t.device for t in self.module.parameters()), torch.device("cpu"))
            nothing = torch.zeros(BINS + self.channels, device=device)
            none = nothing[BINS:]
            return Sums(nothing[:BINS], none, none, none, none, 0)
        return sums[0] if len(sums) == 1 else _merged(sums)


def measured(samples: Sequence[Sample]) -> list[Sums]:
    """The sums of each sample, one forward pass of one layer."""
    alike: dict[object, list[int]] = {}
    for number, (layer, x, _) in enumerate(samples):
        key = (len(x), *x.shape[2:], x.dtype, x.device, layer.limit, layer.activation is None)
        alike.setdefault(key, []).append(number)
    histograms = _histograms(samples) if samples else ()
    found: dict[int, Sums] = {}
    for numbers in alike.values():
        sums = _measured_together([samples[i] for i in numbers], [histograms[i] for i in numbers])
        found.update(zip(numbers, sums, strict=True))
    return [found[i] for i in range(len(samples))]


def _measured_together(samples: Sequence[Sample], histograms: Sequence[Tensor]) -> list[Sums]:
    """The sums of samples of one shape, concatenated along the channels."""
    layer, x, z = samples[0]
    if len(samples) > 1:
        x, z = (torch.cat(parts, 1) for parts in ([s.x for s in samples], [s.z for s in samples]))
    dims, count = averaged_dims(x), x.numel() // x.shape[1]
    mean, var = local_moments(x)
    # Compared in place, as floats: adding up a tensor of truth values takes twice as long.
    within = None if layer.limit is None else z.abs().le_(layer.limit).sum(dims)
    passing = z.clone().gt_(0).sum(dims) if within is None or layer.activation is None else within
    saturated = torch.zeros_like(passing) if within is None else count - within
    channels = [s.layer.channels for s in samples]
    kinds = (torch.split(kind, channels) for kind in (passing, saturated, mean, var))
    rows = zip(histograms, *kinds, strict=True)
    return [Sums(histogram, *parts, count) for histogram, *parts in rows]  # type: ignore[call-arg]


def _histograms(samples: Sequence[Sample]) -> Sequence[Tensor]:
    """Of the values z of each sample, on its layer's grid; what is not a number is not counted."""
    places = []
    for number, (layer, _, z) in enumerate(samples):
        per_unit = BINS / (2 * REACH * layer.scale)
        first = 1 + number * BINS  # below it, at 0, is where NaN goes
        shifted = _thinned(z).flatten().mul(per_unit).add_(first + BINS / 2 - layer.location * per_unit)
        places.append(shifted.clamp_(first, first + BINS - 0.5))
    indices = torch.cat(places).int().clamp_(min=0)
    size = 1 + len(samples) * BINS
    if indices.device.type == "cpu":
        counts = torch.bincount(indices, minlength=size)
    else:  # there bincount makes a host sync
        ones = torch.ones((), device=indices.device).expand(indices.shape)
        counts = torch.zeros(size, device=indices.device).scatter_add_(0, indices.long(), ones)
    return counts[1:].view(-1, BINS).unbind()


def _merged(sums: list[Sums]) -> Sums:
    """Several measurements as one; their batches count as one batch."""
    samples = sum(each.samples for each in sums)
    weights = torch.tensor([each.samples / samples for each in sums], dtype=torch.float64).view(-1, 1)
    means, variances = (torch.stack(parts).double() for parts in zip(*((s.mean, s.var) for s in sums), strict=True))
    weights = weights.to(means.device)
    mean = (weights * means).sum(0)
    var = (weights * (variances + (means - mean).square())).sum(0)
    kinds = zip(*((s.histogram, s.passing, s.saturated) for s in sums), strict=True)
    histogram, passing, saturated = (torch.stack(parts).double().sum(0) for parts in kinds)
    return Sums(histogram, passing, saturated, mean, var, samples)


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

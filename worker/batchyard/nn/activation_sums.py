"""The sums behind ActivationStats over all layers and workers: one message, and what is told from it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from batchyard.nn.activation_layer import BINS, REACH, WatchedLayer, measured

PERCENTILES = torch.tensor([0.15, 0.50, 0.85], dtype=torch.float64)
_MIDDLES = torch.linspace(-REACH + REACH / BINS, REACH - REACH / BINS, BINS, dtype=torch.float64)
_POWERS = torch.stack([torch.ones_like(_MIDDLES), _MIDDLES, _MIDDLES.square()], 1)
"""0th to 2nd power of the middle of each bin, [240, 3]."""


class Shared(NamedTuple):
    """One layer's statistics over all workers; the fields are those of LayerActivations."""

    percentiles: tuple[float, ...]
    saturated: float
    dead: float
    drift: float
    spread: float
    samples: int
    smallest_batch: int


def pack_sums(layers: Sequence[WatchedLayer], slots: Sequence[int], workers: int) -> Tensor:
    """What is added up over workers, for all layers at once, in fp64 and kind after kind.

    Histograms [L, 240], samples [L], smallest batches [L, workers], and for all channels of all layers, [sum of C]
    each: passing, saturated, m * mu, m * E[x^2], m * (this worker's mu)^2. Workers that share a layer's batch have the
    same slot for it, so that their smallest batches add up.
    """
    found = iter(measured([sample for layer in layers for sample in layer.samples]))
    batches = [layer.smallest_batch or 0 for layer in layers]
    for layer in layers:
        layer.smallest_batch = None
    sums = [layer.take([next(found) for _ in layer.samples]) for layer in layers]
    kinds = zip(*((s.histogram, s.passing, s.saturated, s.mean, s.var) for s in sums), strict=True)
    histograms, passing, saturated, mean, var = (torch.cat(parts) for parts in kinds)
    placed = [batch * (slot == worker) for batch, slot in zip(batches, slots, strict=True) for worker in range(workers)]
    counted = torch.tensor([s.samples for s in sums] + placed, dtype=torch.float64).to(mean.device)
    samples = counted[_owners(tuple(layer.channels for layer in layers), mean.device)]
    total = samples * mean
    between = total * mean
    # Concatenating turns everything into fp64.
    return torch.cat([histograms, counted, passing, saturated, total, samples * var + between, between])


@functools.lru_cache(maxsize=16)
def _owners(channels: tuple[int, ...], device: torch.device) -> Tensor:
    """For every channel of every layer, which layer it belongs to."""
    return torch.repeat_interleave(torch.arange(len(channels)), torch.tensor(channels)).to(device)


def share(layers: Sequence[WatchedLayer], packed: Tensor, workers: int) -> list[Shared | None]:
    """Each layer's statistics from the sums of all workers; None for one that none measured. Moves the grids."""
    count, channels = len(layers), [layer.channels for layer in layers]
    owners = _owners(tuple(channels), torch.device("cpu"))
    sizes = [BINS * count, count, workers * count, 5 * len(owners)]
    histograms, samples, batches, sums = torch.split(packed.cpu(), sizes)
    histograms, sums = histograms.view(count, BINS), sums.view(5, -1)
    passing, (saturated, mean, square, between) = sums[0], (sums[1:] / samples[owners]).unbind()
    var = (square - mean * mean).clamp_(min=0)
    drift = _drift(layers, owners, mean, var)
    spread = (between - mean * mean).clamp_(min=0) / var.clamp(min=1e-24) if workers > 1 else torch.zeros_like(mean)
    columns = torch.stack([(passing == 0).double(), saturated, drift, spread], 1)
    totals = torch.zeros(count, 4, dtype=torch.float64).index_add_(0, owners, columns).tolist()
    percentiles = _percentiles(layers, histograms).tolist()
    _move_grids(layers, histograms)
    counted, groups = samples.tolist(), batches.view(count, workers).tolist()
    found: list[Shared | None] = []
    for i, total in enumerate(totals):
        dead, flat, drifted, apart = (value / max(channels[i], 1) for value in total)
        smallest = int(min(filter(None, groups[i]), default=0))
        told = Shared(tuple(percentiles[i]), flat, dead, drifted**0.5, apart**0.5, int(counted[i]), smallest)
        found.append(told if counted[i] else None)
    return found


def _percentiles(layers: Sequence[WatchedLayer], histograms: Tensor) -> Tensor:
    """15th, 50th and 85th percentile of z of each layer, [L, 3], interpolated within a bin."""
    upto = histograms.cumsum(1)
    wanted = upto[:, -1:] * PERCENTILES
    bins = torch.searchsorted(upto, wanted).clamp_(max=BINS - 1)
    missing = upto.gather(1, bins).sub_(wanted)
    place = bins + 1 - missing / histograms.gather(1, bins)
    grids = place.new_tensor([(layer.location, layer.scale) for layer in layers])
    return grids[:, :1] + grids[:, 1:] * (place * (2 * REACH / BINS) - REACH)


def _move_grids(layers: Sequence[WatchedLayer], histograms: Tensor) -> None:
    """To where the values are: equal on all workers, because the histograms are those of all workers."""
    for layer, (total, mean, square) in zip(layers, (histograms @ _POWERS).tolist(), strict=True):
        if total:
            mean, square = mean / total, square / total
            layer.location += layer.scale * mean
            layer.scale = max(1e-6, layer.scale * math.sqrt(max(square - mean * mean, 0.0)))


def _drift(layers: Sequence[WatchedLayer], owners: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """For every channel ((mu_B - mu)^2 + (sigma_B - sigma)^2) / sigma^2; 0 without running statistics."""
    if not any(layer.tracks for layer in layers):
        return torch.zeros_like(mean)
    buffers = [_running_statistics(layer) for layer in layers]
    running_mean, running_var = (torch.cat(parts).cpu() for parts in zip(*buffers, strict=True))
    eps = mean.new_tensor([float(getattr(layer.module, "eps", 0.0)) for layer in layers])[owners]
    sigma, running_sigma = (var + eps).sqrt_(), (running_var + eps).sqrt_()
    return (mean - running_mean).square_().add_((sigma - running_sigma).square_()).div_(running_sigma.square())


def _running_statistics(layer: WatchedLayer) -> tuple[Tensor, Tensor]:
    bn = layer.module
    if isinstance(bn, _BatchNorm) and bn.running_mean is not None and bn.running_var is not None:
        return bn.running_mean, bn.running_var
    return torch.zeros(layer.channels), torch.ones(layer.channels)

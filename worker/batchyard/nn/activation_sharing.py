"""What the sums of all workers tell of each layer at each point.

One message goes round, whatever the numbers of points and layers: counts, moments and histograms. Where a histogram
lies, +-6 standard deviations of z, is known beforehand: after a normalisation z has mean beta and standard deviation
gamma. Without one, or with one that does not standardise, the moments go round first and say it; a second message has
the histograms. Either way what a point shows depends on that point alone, not on those that are told together with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from batchyard.nn.activation_alike import Workspace, alike_samples
from batchyard.nn.activation_histogram import Grid, percentiles
from batchyard.nn.activation_layer import Point, WatchedLayer
from batchyard.nn.activation_sums import Sums, add_up, count, places, scatter_sums
from batchyard.nn.collectives import world_size


class Shared(NamedTuple):
    """One layer's statistics at one point, over all workers; the fields are those of LayerActivations."""

    percentiles: Sequence[float]
    saturated: float
    dead: float
    drift: float
    spread: float
    samples: int
    smallest_batch: int


@torch.no_grad()
def share(
    layers: Sequence[WatchedLayer],
    points: Sequence[Point],
    slots: Sequence[int],
    workspace: Workspace,
    group: dist.ProcessGroup | None,
) -> list[list[Shared | None]]:
    """Each layer's statistics at each point, over all workers; None for one that none measured.

    Workers that share a layer's batch have the same one of `slots` for it.
    """
    workers, rows, device = world_size(group), len(points) * len(layers), _device(layers)
    channels = tuple(layer.channels for layer in layers)
    sums = Sums.zeros(rows, workers, len(points) * sum(channels), device)
    smallest = [batch for point in points for batch in point.smallest_batches]
    slot = torch.tensor(slots, device=device).repeat(len(points)).unsqueeze(1)
    sums.batches.scatter_(1, slot, torch.tensor(smallest, dtype=torch.float64, device=device).unsqueeze(1))
    looking = any(point.affine is None for point in points)
    added = _added_by_looking if looking else _added
    grid = added(sums, layers, points, workspace, group)
    told = torch.cat([sums.moments, percentiles(sums.histograms, grid).flatten()]).cpu()  # host sync
    moments, found = told.tensor_split([len(sums.moments)])
    sums = Sums.of(moments, rows, workers, len(points) * sum(channels))
    results = iter(_told(layers, points, sums, found.view(-1, 3).tolist()))
    return [[next(results) for _ in layers] for _ in points]


def _added(
    sums: Sums,
    layers: Sequence[WatchedLayer],
    points: Sequence[Point],
    workspace: Workspace,
    group: dist.ProcessGroup | None,
) -> Grid:
    """Adds up over all samples and workers at once; returns where the values of standardising layers must be."""
    channels = tuple(layer.channels for layer in layers)
    affine = torch.stack([point.affine for point in points if point.affine is not None])
    gamma, beta = (half.flatten() for half in affine.chunk(2, 1))
    _, owners = places(channels, len(points), affine.device)
    grid = Grid.of_affine(gamma, beta, owners, len(sums.histograms))
    add_up(sums, alike_samples(layers, points, workspace), channels, len(points), grid)
    if world_size(group) > 1:
        dist.all_reduce(sums.message, group=group)
    return grid


def _added_by_looking(
    sums: Sums,
    layers: Sequence[WatchedLayer],
    points: Sequence[Point],
    workspace: Workspace,
    group: dist.ProcessGroup | None,
) -> Grid:
    """Adds up over all samples and workers, the histograms when it is known where the values are; returns that."""
    several, channels = world_size(group) > 1, tuple(layer.channels for layer in layers)
    add_up(sums, alike_samples(layers, points, workspace), channels, len(points), None)
    if several:
        dist.all_reduce(sums.moments, group=group)
    _, counted, total, squares = sums.per_row
    grid = Grid.over(total / counted, squares / counted)
    for part in alike_samples(layers, points, workspace):
        count(sums.histograms, part, grid)
    if several:
        dist.all_reduce(sums.histograms, group=group)
    return grid


def _device(layers: Sequence[WatchedLayer]) -> torch.device:
    tensors = (t for layer in layers for t in (*layer.module.parameters(), *layer.module.buffers()))
    return next((t.device for t in tensors), torch.device("cpu"))


def _told(
    layers: Sequence[WatchedLayer], points: Sequence[Point], sums: Sums, found: list[list[float]]
) -> Iterator[Shared | None]:
    """What the sums of all workers tell, row by row; on the host."""
    channels = tuple(layer.channels for layer in layers)
    _, owners = places(channels, len(points), torch.device("cpu"))
    passing, saturated, mean, square, between = sums.per_channel
    counts = sums.per_row[0][owners]
    mean, between = mean / counts, between / counts
    var = (square / counts - mean * mean).clamp_(min=0)
    spread = (between - mean * mean).clamp_(min=0) / var.clamp(min=1e-24)
    columns = [saturated / counts, (passing == 0).double(), _drift(layers, points, mean, var), spread]
    totals = torch.zeros(4, len(found), dtype=torch.float64)
    scatter_sums(totals, owners, torch.stack(columns))
    totals /= totals.new_tensor(channels).repeat(len(points)).clamp_(min=1)
    totals[2:].sqrt_()
    smallest = torch.where(sums.batches > 0, sums.batches, torch.inf).amin(1)
    rows = zip(found, *totals.tolist(), sums.per_row[0].tolist(), smallest.tolist(), strict=True)
    for values, flat, dead, drift, apart, samples, batch in rows:
        yield Shared(values, flat, dead, drift, apart, int(samples), int(batch)) if samples else None


def _drift(layers: Sequence[WatchedLayer], points: Sequence[Point], mean: Tensor, var: Tensor) -> Tensor:
    """For every channel ((mu_B - mu)^2 + (sigma_B - sigma)^2) / sigma^2; 0 without running statistics."""
    running = [point.running for point in points if point.running is not None]
    if not running:
        return torch.zeros_like(mean)
    running_mean, running_var = (half.flatten().cpu() for half in torch.stack(running).double().chunk(2, 1))
    channels = torch.tensor([layer.channels for layer in layers] * len(points))
    eps = mean.new_tensor([float(getattr(layer.module, "eps", 0.0)) for layer in layers] * len(points))
    eps = eps.repeat_interleave(channels)
    sigma, running_sigma = (var + eps).sqrt_(), (running_var + eps).sqrt_()
    return (mean - running_mean).square_().add_((sigma - running_sigma).square_()).div_(running_sigma.square())

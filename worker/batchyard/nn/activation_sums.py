"""The sums behind ActivationStats, over all points, layers and workers at once, and what is told from them.

A row is one layer at one point. Two messages go round, whatever the numbers of points and layers: counts and moments,
which also say where each row's histogram lies; then the histograms. So what a point shows depends on that point alone,
not on those that are told together with it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from batchyard.nn.activation_histogram import BINS, Grid, histograms, percentiles
from batchyard.nn.activation_layer import Point, Sample, WatchedLayer
from batchyard.nn.collectives import world_size
from batchyard.nn.moments import statistics_dtype


class Shared(NamedTuple):
    """One layer's statistics at one point, over all workers; the fields are those of LayerActivations."""

    percentiles: Sequence[float]
    saturated: float
    dead: float
    drift: float
    spread: float
    samples: int
    smallest_batch: int


class _Gate(NamedTuple):
    """Which z let a gradient through."""

    limit: float | None
    """abs(z) above which the nonlinearity is flat."""
    one_sided: bool
    """Whether only z above 0 does."""


class _Alike(NamedTuple):
    """Samples of one shape, of layers with like nonlinearities."""

    rows: Tensor
    """Whose they are, [S]."""
    x: Tensor
    """[S, n, C, ...]."""
    z: Tensor
    gate: _Gate


class Sums(NamedTuple):
    """What adds up over workers, fp64; one message."""

    message: Tensor
    per_row: Tensor
    """Values per channel, sum of z, sum of z^2: [3, R]."""
    batches: Tensor
    """The smallest batch of the workers that normalise together, in the place of the first of them: [R, workers]."""
    per_channel: Tensor
    """Values with a gradient, values beyond saturation, m mu, m E[x^2], m (this worker's mu)^2: [5, R's channels]."""

    @classmethod
    def zeros(cls, rows: int, workers: int, channels: int, device: torch.device) -> Sums:
        """Nothing yet."""
        message = torch.zeros((3 + workers) * rows + 5 * channels, dtype=torch.float64, device=device)
        return cls.of(message, rows, workers)

    @classmethod
    def of(cls, message: Tensor, rows: int, workers: int) -> Sums:
        """The parts of `message`."""
        per_row, batches, per_channel = message.tensor_split([3 * rows, (3 + workers) * rows])
        return cls(message, per_row.view(3, -1), batches.view(rows, workers), per_channel.view(5, -1))


@torch.no_grad()
def share(
    layers: Sequence[WatchedLayer], points: Sequence[Point], slots: Sequence[int], group: dist.ProcessGroup | None
) -> list[list[Shared | None]]:
    """Each layer's statistics at each point, over all workers; None for one that none measured.

    Workers that share a layer's batch have the same one of `slots` for it.
    """
    workers, rows, device = world_size(group), len(points) * len(layers), _device(layers)
    channels = tuple(layer.channels for layer in layers)
    alike = list(_alike(layers, points, device))
    sums = Sums.zeros(rows, workers, len(points) * sum(channels), device)
    _add_up(sums, alike, channels, points)
    smallest = [batch for point in points for batch in point.smallest_batches]
    slot = torch.tensor(slots, device=device).repeat(len(points)).unsqueeze(1)
    sums.batches.scatter_(1, slot, torch.tensor(smallest, dtype=torch.float64, device=device).unsqueeze(1))
    if workers > 1:
        dist.all_reduce(sums.message, group=group)
    values = sums.per_row[0] * torch.tensor(channels, device=device).repeat(len(points))
    grid = Grid.over(sums.per_row[1] / values, sums.per_row[2] / values)
    counts = torch.zeros(rows, BINS, dtype=torch.float64, device=device)
    for part in alike:
        counts.index_add_(0, part.rows, histograms(part.z, grid.of(part.rows)).double())
    if workers > 1:
        dist.all_reduce(counts, group=group)
    told = torch.cat([sums.message, percentiles(counts, grid).flatten()]).cpu()  # host sync
    sums = Sums.of(told[: len(sums.message)], rows, workers)
    found = iter(_told(layers, points, sums, told[len(sums.message) :].view(-1, 3).tolist()))
    return [[next(found) for _ in layers] for _ in points]


def _device(layers: Sequence[WatchedLayer]) -> torch.device:
    tensors = (t for layer in layers for t in (*layer.module.parameters(), *layer.module.buffers()))
    return next((t.device for t in tensors), torch.device("cpu"))


def _alike(layers: Sequence[WatchedLayer], points: Sequence[Point], device: torch.device) -> Iterator[_Alike]:
    """All samples, those of like layers together."""
    found: dict[tuple[torch.Size, torch.dtype, _Gate], list[tuple[int, Sample]]] = {}
    gates = [_Gate(layer.limit, layer.limit is None or layer.activation is None) for layer in layers]
    samples = (each for point in points for each in point.samples)
    for row, (each, gate) in enumerate(zip(samples, gates * len(points), strict=True)):
        for sample in each:
            found.setdefault((sample.x.shape, sample.x.dtype, gate), []).append((row, sample))
    for (_, _, gate), parts in found.items():
        rows = torch.tensor([row for row, _ in parts], device=device)
        x, z = (torch.stack(tensors) for tensors in zip(*(sample for _, sample in parts), strict=True))
        yield _Alike(rows, x.to(statistics_dtype(x)), z.to(statistics_dtype(z)), gate)


def _add_up(sums: Sums, alike: Sequence[_Alike], channels: tuple[int, ...], points: Sequence[Point]) -> None:
    """Adds what this worker has seen."""
    starts, owners = _places(channels, len(points), sums.message.device)
    for part in alike:
        count = part.x[0].numel() // part.x.shape[2]
        mean, squares = _moments(part.x)
        mean_z, squares_z = _moments(part.z)
        rows = torch.stack([torch.ones_like(mean[:, 0]), _sum(mean_z, 1), _sum(squares_z, 1)])
        _scatter_sums(sums.per_row, part.rows, rows.mul_(count))
        columns = (starts[part.rows].unsqueeze(1) + torch.arange(part.x.shape[2], device=starts.device)).flatten()
        kinds = torch.stack([*_gates(part, count), mean.mul_(count), squares.mul_(count)])
        _scatter_sums(sums.per_channel, columns, kinds.flatten(1))
    _, _, total, _, between = sums.per_channel
    torch.div(total * total, sums.per_row[0][owners].clamp(min=1), out=between)


def _scatter_sums(into: Tensor, columns: Tensor, values: Tensor) -> None:
    """into[k, columns] += values[k] for each kind k; in one dimension, where index_add_ is ten times as fast."""
    kinds = torch.arange(len(values), device=columns.device).unsqueeze(1)
    into.view(-1).index_add_(0, (kinds * into.shape[1] + columns).flatten(), values.flatten())


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean of squares per channel of values [S, n, C, ...], fp64 [S, C] each.

    Taken about the first value of each channel: in fp32, squares of large means would drown the variance.
    """
    values = values.flatten(3) if values.dim() > 3 else values
    count = values[0].numel() // values.shape[2]
    first = values[:, :1, :, :1] if values.dim() > 3 else values[:, :1]
    apart = values - first
    mean, squares = (_over_samples(each).double().div_(count) for each in (apart, apart * apart))
    about = first.flatten(1).double()
    return mean + about, squares.add_(about * (2 * mean + about))


def _over_samples(values: Tensor) -> Tensor:
    """Sums of values [S, n, C] or [S, n, C, places] per channel, [S, C]."""
    sums = _sum(values, 1)
    return sums if sums.dim() == 2 else _sum(sums, 2)


def _sum(values: Tensor, dim: int) -> Tensor:
    """The sum over `dim`, added up pairwise: the same bits whatever the other dimensions are, unlike torch.sum's.

    So a point shows the same bits with whichever others it is collected.
    """
    while (length := values.shape[dim]) > 1:
        half = length // 2
        pairs = values.narrow(dim, 0, half) + values.narrow(dim, half, half)
        if length % 2:
            pairs.narrow(dim, 0, 1).add_(values.narrow(dim, length - 1, 1))
        values = pairs
    return values.squeeze(dim)


def _gates(part: _Alike, count: int) -> tuple[Tensor, Tensor]:
    """Per channel, [S, C] each: values that some gradient flows through, and values beyond saturation."""
    dims = [1, *range(3, part.z.dim())]
    # Compared in place, as floats: adding up a tensor of truth values takes twice as long.
    within = None if part.gate.limit is None else part.z.abs().le_(part.gate.limit).sum(dims).double()
    passing = part.z.clone().gt_(0).sum(dims).double() if within is None or part.gate.one_sided else within
    return passing, torch.zeros_like(passing) if within is None else count - within


@functools.lru_cache(maxsize=16)
def _places(channels: tuple[int, ...], points: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For every row where its channels begin, and for every channel of every row its row."""
    sizes = torch.tensor(channels * points)
    return (sizes.cumsum(0) - sizes).to(device), torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(device)


def _told(
    layers: Sequence[WatchedLayer], points: Sequence[Point], sums: Sums, found: list[list[float]]
) -> Iterator[Shared | None]:
    """What the sums of all workers tell, row by row; on the host."""
    channels = tuple(layer.channels for layer in layers)
    _, owners = _places(channels, len(points), torch.device("cpu"))
    passing, saturated, mean, square, between = sums.per_channel
    counts = sums.per_row[0][owners]
    mean, between = mean / counts, between / counts
    var = (square / counts - mean * mean).clamp_(min=0)
    spread = (between - mean * mean).clamp_(min=0) / var.clamp(min=1e-24)
    columns = [saturated / counts, (passing == 0).double(), _drift(layers, points, mean, var), spread]
    totals = torch.zeros(4, len(found), dtype=torch.float64)
    _scatter_sums(totals, owners, torch.stack(columns))
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

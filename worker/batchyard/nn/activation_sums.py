"""The sums behind ActivationStats, over all points, layers and workers at once, and what is told from them.

A row is one layer at one point. Two messages go round, whatever the numbers of points and layers: counts and moments,
which also say where each row's histogram lies; then the histograms. So what a point shows depends on that point alone,
not on those that are told together with it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from batchyard.nn.activation_histogram import BINS, Grid, histograms, percentiles, thinned
from batchyard.nn.activation_layer import Point, WatchedLayer
from batchyard.nn.collectives import world_size
from batchyard.nn.moments import statistics_dtype

MOST_TOGETHER = 1 << 18
"""Values that are worked on at once: a megabyte, most of which stays in a core's cache between two operations."""


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

    rows: tuple[int, ...]
    """Whose they are."""
    values: Tensor
    """x and z, [S, 2, n, C, ...], or only z, [S, 1, n, C, ...]."""
    gate: _Gate
    pieces: list[int]
    """How many of the samples are added up in one call: they are of one point, and no other point changes them."""

    @property
    def z(self) -> Tensor:
        """[S, n, C, ...]."""
        return self.values[:, -1]

    @property
    def places(self) -> int:
        """Values per channel of each sample."""
        return self.values[0, 0].numel() // self.values.shape[3]


class _Layout(NamedTuple):
    """Where the channels of all samples, one after another, add to; and of how many values each of them tells."""

    rows: Tensor
    """[samples]."""
    counts: Tensor
    """[samples], fp64."""
    columns: Tensor
    """[channels of all samples]."""
    counts_of_columns: Tensor


class Sums(NamedTuple):
    """What adds up over workers, fp64; one message."""

    message: Tensor
    per_row: Tensor
    """Values per channel; number, sum and sum of squares of the values of z that are counted: [4, R]."""
    batches: Tensor
    """The smallest batch of the workers that normalise together, in the place of the first of them: [R, workers]."""
    per_channel: Tensor
    """[5, R's channels]: what is above 0 if some gradient flows, values beyond saturation, m mu, m E[x^2], and m times
    this worker's mu^2."""

    @classmethod
    def zeros(cls, rows: int, workers: int, channels: int, device: torch.device) -> Sums:
        """Nothing yet."""
        message = torch.zeros((4 + workers) * rows + 5 * channels, dtype=torch.float64, device=device)
        return cls.of(message, rows, workers)

    @classmethod
    def of(cls, message: Tensor, rows: int, workers: int) -> Sums:
        """The parts of `message`."""
        per_row, batches, per_channel = message.tensor_split([4 * rows, (4 + workers) * rows])
        return cls(message, per_row.view(4, -1), batches.view(rows, workers), per_channel.view(5, -1))


@torch.no_grad()
def share(
    layers: Sequence[WatchedLayer], points: Sequence[Point], slots: Sequence[int], group: dist.ProcessGroup | None
) -> list[list[Shared | None]]:
    """Each layer's statistics at each point, over all workers; None for one that none measured.

    Workers that share a layer's batch have the same one of `slots` for it.
    """
    workers, rows, device = world_size(group), len(points) * len(layers), _device(layers)
    channels = tuple(layer.channels for layer in layers)
    alike = list(_alike(layers, points))
    sums = Sums.zeros(rows, workers, len(points) * sum(channels), device)
    rows_of = _add_up(sums, alike, channels, len(points))
    smallest = [batch for point in points for batch in point.smallest_batches]
    slot = torch.tensor(slots, device=device).repeat(len(points)).unsqueeze(1)
    sums.batches.scatter_(1, slot, torch.tensor(smallest, dtype=torch.float64, device=device).unsqueeze(1))
    if workers > 1:
        dist.all_reduce(sums.message, group=group)
    _, counted, total, squares = sums.per_row
    grid = Grid.over(total / counted, squares / counted)
    counts = torch.zeros(rows, BINS, dtype=torch.float64, device=device)
    for part, of in zip(alike, torch.split(rows_of, [len(part.rows) for part in alike]), strict=True):
        counts.index_add_(0, of, histograms(part.z, grid.of(of)).double())
    if workers > 1:
        dist.all_reduce(counts, group=group)
    told = torch.cat([sums.message, percentiles(counts, grid).flatten()]).cpu()  # host sync
    sums = Sums.of(told[: len(sums.message)], rows, workers)
    found = iter(_told(layers, points, sums, told[len(sums.message) :].view(-1, 3).tolist()))
    return [[next(found) for _ in layers] for _ in points]


def _device(layers: Sequence[WatchedLayer]) -> torch.device:
    tensors = (t for layer in layers for t in (*layer.module.parameters(), *layer.module.buffers()))
    return next((t.device for t in tensors), torch.device("cpu"))


def _alike(layers: Sequence[WatchedLayer], points: Sequence[Point]) -> Iterator[_Alike]:
    """All samples, those of like layers together; each row's in an order that depends on none but its own."""
    found: dict[tuple[torch.Size, torch.dtype, _Gate], dict[int, list[tuple[int, Tensor]]]] = {}
    gates = [_Gate(layer.limit, layer.limit is None or layer.activation is None) for layer in layers]
    for number, point in enumerate(points):
        for row, (samples, gate) in enumerate(zip(point.samples, gates, strict=True), number * len(layers)):
            for values in samples:
                of_points = found.setdefault((values.shape, values.dtype, gate), {})
                of_points.setdefault(number, []).append((row, values))
    for (shape, _, gate), of_points in sorted(found.items(), key=lambda item: item[0][0]):
        most = max(1, MOST_TOGETHER // shape.numel())
        pieces = [each[at : at + most] for each in of_points.values() for at in range(0, len(each), most)]
        several = max(1, most // max(map(len, pieces)))
        for at in range(0, len(pieces), several):
            chosen = pieces[at : at + several]
            rows, tensors = zip(*itertools.chain(*chosen), strict=True)
            values = torch.stack(tensors) if len(tensors) > 1 else tensors[0].unsqueeze(0)
            yield _Alike(rows, values.to(statistics_dtype(values)), gate, list(map(len, chosen)))


def _add_up(sums: Sums, alike: Sequence[_Alike], channels: tuple[int, ...], points: int) -> Tensor:
    """Adds what this worker has seen. Returns the rows of all samples."""
    device = sums.message.device
    _, owners = _places(channels, points, device)
    layout = _layout(channels, points, tuple((part.rows, part.places) for part in alike), device)
    if alike:
        gates, moments = torch.cat([_of_channels(part) for part in alike], 1).double().tensor_split([2])
        moved = _moved_back(moments, layout.counts_of_columns)
        _scatter_sums(sums.per_channel, layout.columns, torch.cat([gates, moved]))
        counted, moments = torch.cat([_of_rows(part) for part in alike], 1).double().tensor_split([1])
        moved = _moved_back(moments, counted[0])
        _scatter_sums(sums.per_row, layout.rows, torch.cat([layout.counts.unsqueeze(0), counted, moved]))
    _, _, mean, _, between = sums.per_channel
    torch.div(mean * mean, sums.per_row[0][owners].clamp(min=1), out=between)
    return layout.rows


def _scatter_sums(into: Tensor, columns: Tensor, values: Tensor) -> None:
    """into[k, columns] += values[k] for each kind k; in one dimension, where index_add_ is ten times as fast."""
    kinds = torch.arange(len(values), device=columns.device).unsqueeze(1)
    into.view(-1).index_add_(0, (kinds * into.shape[1] + columns).flatten(), values.flatten())


def _of_channels(part: _Alike) -> Tensor:
    """[5, S C]: of every channel of every sample what is above 0 if some gradient flows, how many values are saturated,
    and the first value of x, with the sums of the distances from it and of their squares.

    About the first value: in fp32, squares of large means would drown the variance.
    """
    x = part.values[:, 0]
    first, *sums = _about_first(x, [1, *range(3, x.dim())], part.pieces)
    return torch.stack([*_gates(part), first, *sums]).flatten(1)


def _of_rows(part: _Alike) -> Tensor:
    """[4, S]: of the values of z of every sample that are counted their number, the first one, and sums about it."""
    z = thinned(part.z)
    first, *sums = _about_first(z, [1], part.pieces)
    return torch.stack([torch.full_like(first, z.shape[1]), first, *sums])


def _about_first(values: Tensor, dims: list[int], pieces: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The first value along `dims`, and the sums over them of the distances from it and of their squares.

    In which order torch.sum adds up depends on all of the shape and on the threads (torch 2.13 does so from 16 threads
    on); but a point must show the same bits with whichever others it is collected.
    """
    first = values[tuple(slice(1) if dim in dims else slice(None) for dim in range(values.dim()))]
    apart = values - first
    total = torch.cat([each.sum(dims) for each in torch.split(apart, pieces)])
    squares = torch.cat([each.sum(dims) for each in torch.split(apart.mul_(apart), pieces)])
    return first.reshape(total.shape), total, squares


def _moved_back(moments: Tensor, counts: Tensor) -> Tensor:
    """Sums and sums of squares, [2, ...], from those about the first value of `counts` values, [3, ...] with it."""
    first, total, squares = moments
    moved = first * counts
    return torch.stack([total + moved, squares + first * (moved + 2 * total)])


def _gates(part: _Alike) -> tuple[Tensor, Tensor]:
    """Per channel, [S, C] each: what is above 0 if some gradient flows, and how many values are saturated."""
    z = part.z
    dims = [1, *range(3, z.dim())]
    # Compared in place, as floats: adding up a tensor of truth values takes twice as long.
    within = None if part.gate.limit is None else z.abs().le_(part.gate.limit).sum(dims)
    passing = z.amax(dims).gt_(0) if within is None or part.gate.one_sided else within
    return passing, torch.zeros_like(passing) if within is None else part.places - within


@functools.lru_cache(maxsize=16)
def _layout(
    channels: tuple[int, ...], points: int, groups: tuple[tuple[tuple[int, ...], int], ...], device: torch.device
) -> _Layout:
    """Of the samples of all `groups`: the rows that each belongs to, and the values per channel."""
    starts, _ = _places(channels, points, torch.device("cpu"))
    rows = torch.tensor([row for of, _ in groups for row in of], dtype=torch.int64)
    counts = torch.tensor([count for of, count in groups for _ in of], dtype=torch.float64)
    sizes = torch.tensor(channels * points)[rows]
    ends = sizes.cumsum(0)
    columns = torch.arange(int(sizes.sum())) + (starts[rows] - ends + sizes).repeat_interleave(sizes)
    return _Layout(*(each.to(device) for each in (rows, counts, columns, counts.repeat_interleave(sizes))))


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

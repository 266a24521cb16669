"""Samples of like layers and one shape, stacked: everything about them that adds up, by one kernel for all.

What a point shows must depend on that point alone, bit by bit, not on those that are worked on together with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from batchyard.nn.activation_histogram import thinned
from batchyard.nn.activation_layer import Point, WatchedLayer
from batchyard.nn.moments import statistics_dtype

MOST_TOGETHER = 1 << 18
"""Values that are worked on at once: a megabyte, most of which stays in a core's cache between two operations."""


class Gate(NamedTuple):
    """Which z let a gradient through."""

    limit: float | None
    """abs(z) above which the nonlinearity is flat."""
    one_sided: bool
    """Whether only z above 0 does."""


class Alike(NamedTuple):
    """Samples of one shape, of layers with like nonlinearities."""

    rows: tuple[int, ...]
    """Whose they are."""
    values: Tensor
    """x and z, [S, 2, n, C, ...], or only z, [S, 1, n, C, ...]."""
    gate: Gate
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


def alike_samples(layers: Sequence[WatchedLayer], points: Sequence[Point]) -> Iterator[Alike]:
    """All samples, those of like layers together; each row's in an order that depends on none but its own."""
    found: dict[tuple[torch.Size, torch.dtype, Gate], dict[int, list[tuple[int, Tensor]]]] = {}
    gates = [Gate(layer.limit, layer.limit is None or layer.activation is None) for layer in layers]
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
            yield Alike(rows, values.to(statistics_dtype(values)), gate, list(map(len, chosen)))


def of_channels(part: Alike) -> Tensor:
    """[5, S C]: of every channel of every sample what is above 0 if some gradient flows, how many values are saturated,
    and the first value of x, with the sums of the distances from it and of their squares.

    About the first value: in fp32, squares of large means would drown the variance.
    """
    x = part.values[:, 0]
    first, *sums = _about_first(x, [1, *range(3, x.dim())], part.pieces)
    return torch.stack([*_gates(part), first, *sums]).flatten(1)


def of_rows(part: Alike) -> Tensor:
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


def _gates(part: Alike) -> tuple[Tensor, Tensor]:
    """Per channel, [S, C] each: what is above 0 if some gradient flows, and how many values are saturated."""
    z = part.z
    dims = [1, *range(3, z.dim())]
    # Compared in place, as floats: adding up a tensor of truth values takes twice as long.
    within = None if part.gate.limit is None else z.abs().le_(part.gate.limit).sum(dims)
    passing = z.amax(dims).gt_(0) if within is None or part.gate.one_sided else within
    return passing, torch.zeros_like(passing) if within is None else part.places - within

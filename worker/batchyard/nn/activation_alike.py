"""Samples of like layers and one shape, stacked: everything about them that adds up, by one kernel for all.

What a point shows must depend on that point alone, bit by bit, not on those that are worked on together with it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from batchyard.nn.activation_histogram import thinned
from batchyard.nn.activation_layer import Point, WatchedLayer
from batchyard.nn.moments import statistics_dtype

MOST_TOGETHER = 1 << 18
"""Values that are worked on at once: a megabyte, most of which stays in a core's cache between two operations."""


class Workspace:
    """Memory that stays from one group of samples to the next, and from one collection to the next.

    What malloc gives back to the system comes as fresh pages the next time, and these cost more than the arithmetic.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def room(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """A tensor of `shape`, in the dtype for statistics of `like`; until the next of that `name` is asked for."""
        size, dtype = math.prod(shape), statistics_dtype(like)
        if size > MOST_TOGETHER:
            return torch.empty(tuple(shape), dtype=dtype, device=like.device)
        key = (name, dtype, like.device)
        if key not in self._kept:
            self._kept[key] = torch.empty(MOST_TOGETHER, dtype=dtype, device=like.device)
        return self._kept[key][:size].view(tuple(shape))


class Gate(NamedTuple):
    """Which z let a gradient through."""

    limit: float | None
    """abs(z) above which the nonlinearity is flat."""
    one_sided: bool
    """Whether only z above 0 does."""


class Alike(NamedTuple):
    """Samples of one shape, of layers with like nonlinearities; to be used up before the next are asked for."""

    rows: tuple[int, ...]
    """Whose they are."""
    values: Tensor
    """x and z, [S, 2, n, C, ...], or only z, [S, 1, n, C, ...]."""
    gate: Gate
    pieces: list[int]
    """How many of the samples are added up in one call: they are of one point, and no other point changes them."""
    scratch: Tensor
    """Room for as many values as z has, and of its shape."""

    @property
    def z(self) -> Tensor:
        """[S, n, C, ...]."""
        return self.values[:, -1]

    @property
    def places(self) -> int:
        """Values per channel of each sample."""
        return self.values[0, 0].numel() // self.values.shape[3]


def alike_samples(layers: Sequence[WatchedLayer], points: Sequence[Point], workspace: Workspace) -> Iterator[Alike]:
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
            values = _stacked(tensors, workspace)
            scratch = workspace.room("scratch", (len(tensors), *shape[1:]), values)
            yield Alike(rows, values, gate, list(map(len, chosen)), scratch)


def _stacked(tensors: Sequence[Tensor], workspace: Workspace) -> Tensor:
    """[S, ...], in the dtype for statistics; a single tensor, which may be large, is not copied."""
    first = tensors[0]
    if len(tensors) == 1:
        return first.to(statistics_dtype(first)).unsqueeze(0)
    return torch.stack(list(tensors), out=workspace.room("values", (len(tensors), *first.shape), first))


def of_channels(part: Alike) -> Tensor:
    """[5, S C]: of every channel of every sample what is above 0 if some gradient flows, how many values are saturated,
    and the first value of x, with the sums of the distances from it and of their squares.

    About the first value: in fp32, squares of large means would drown the variance.
    """
    x = part.values[:, 0]
    first, *sums = _about_first(x, [1, *range(3, x.dim())], part.pieces, part.scratch)
    return torch.stack([*_gates(part), first, *sums]).flatten(1)


def of_rows(part: Alike) -> Tensor:
    """[4, S]: of the values of z of every sample that are counted their number, the first one, and sums about it."""
    z = thinned(part.z)
    first, *sums = _about_first(z, [1], part.pieces, thinned(part.scratch))
    return torch.stack([torch.full_like(first, z.shape[1]), first, *sums])


def _about_first(values: Tensor, dims: list[int], pieces: list[int], scratch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first value along `dims`, and the sums over them of the distances from it and of their squares.

    In which order torch.sum adds up depends on all of the shape and on the threads (torch 2.13 does so from 16 threads
    on); but a point must show the same bits with whichever others it is collected.
    """
    first = values[tuple(slice(1) if dim in dims else slice(None) for dim in range(values.dim()))]
    apart = torch.sub(values, first, out=scratch)
    total = torch.cat([each.sum(dims) for each in torch.split(apart, pieces)])
    squares = torch.cat([each.sum(dims) for each in torch.split(apart.mul_(apart), pieces)])
    return first.reshape(total.shape), total, squares


def _gates(part: Alike) -> tuple[Tensor, Tensor]:
    """Per channel, [S, C] each: what is above 0 if some gradient flows, and how many values are saturated."""
    z = part.z
    dims = [1, *range(3, z.dim())]
    # Compared in place, as floats: adding up a tensor of truth values takes twice as long.
    within = None if part.gate.limit is None else torch.abs(z, out=part.scratch).le_(part.gate.limit).sum(dims)
    passing = z.amax(dims).gt_(0) if within is None or part.gate.one_sided else within
    return passing, torch.zeros_like(passing) if within is None else part.places - within

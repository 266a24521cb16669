"""The inputs that two affine maps are probed with: zero, dense ones, and unit impulses at every kind of place.

Where a region's output looks at few places of its input, all of its middle is alike: fewer places than the network has
are enough to have a border and a middle.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchyard.nn.folding.algebra import CONVOLUTIONS, TRANSPOSED
from batchyard.nn.folding.passing import SAME_VALUES
from batchyard.nn.folding.tracing import module_of
from batchyard.nn.input_normalization import InputNormalization

MOST_BASIS = 1024
"""Values of at most this many numbers are probed with their whole basis."""
MOST_PROBES = 128
"""Impulses of a region at most; beyond that, impulses are random mixtures of channels at one place."""
MIXTURES = 2

Shape = tuple[int, ...]


class Probes(NamedTuple):
    """A batch of inputs of a region, one tensor for each value that it reads."""

    values: list[Tensor]
    squares: list[Tensor]
    """Bounds of values^2; one row may stand for several."""


def probes(shapes: Sequence[Shape], one_by_one: bool) -> Iterator[Probes]:
    """Zero and dense inputs in every value at once, then impulses, for values of these shapes [1, C, ...].

    Impulses are in one value after the other, but for values that differ in their channels alone: those are probed as
    their concatenation would be. `one_by_one`: every batch holds a single input, without a dimension for the batch,
    and shapes are those of whole values.
    """
    generator = torch.Generator().manual_seed(0)
    likes = [s if one_by_one else s[1:] for s in shapes]
    dense = [torch.randn(2, *like, generator=generator, dtype=torch.float64) for like in likes]
    batches = [_bounded([torch.cat([torch.zeros_like(d[:1]), d]) for d in dense], 3)]
    for members in _side_by_side(likes, one_by_one):
        batches.append(_impulses_in(members, likes, generator))
    for batch in batches:
        if not one_by_one or not batch.values:
            yield batch
        else:
            for k in range(len(batch.values[0])):
                one = [part[k] for part in batch.values]
                yield Probes(one, [part.square() for part in one])


def _side_by_side(likes: Sequence[Shape], one_by_one: bool) -> list[list[int]]:
    """The values that are probed together, by number."""
    if one_by_one or not all(likes):
        return [[i] for i in range(len(likes))]
    found: dict[Shape, list[int]] = {}
    for i, like in enumerate(likes):
        found.setdefault(like[1:], []).append(i)
    return list(found.values())


def _impulses_in(members: list[int], likes: Sequence[Shape], generator: torch.Generator) -> Probes:
    """Impulses in some of the values, zeros in the others."""
    if len(members) == 1:
        impulses, together = _impulses(likes[members[0]], generator)
        parts = {members[0]: impulses}
    else:
        channels = [likes[i][0] for i in members]
        impulses, together = _impulses((sum(channels), *likes[members[0]][1:]), generator)
        parts = dict(zip(members, impulses.split(channels, 1), strict=True))  # type: ignore[no-untyped-call]
    rows = len(impulses)
    return _bounded(
        [parts[i] if i in parts else impulses.new_zeros(rows, *like) for i, like in enumerate(likes)], together
    )


def _bounded(values: list[Tensor], together: int) -> Probes:
    """Takes every `together` rows, which are alike, for one when it comes to their size."""
    return Probes(values, [v.square().reshape(-1, together, *v.shape[1:]).amax(1) for v in values])


def _impulses(shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, int]:
    """Unit impulses for a value of `shape` (C, ...): everywhere when they are few, else at corner, edge and middle.

    Where the channels are many as well, an impulse holds a random mixture of channels. Returns the impulses, and how
    many consecutive ones are at one place.
    """
    size = math.prod(shape)
    if size <= MOST_BASIS and size <= MOST_PROBES * max(1, size // max(1, shape[0] if shape else 1)):
        return torch.eye(size, dtype=torch.float64).view(size, *shape), 1
    channels, places = shape[0], _places(shape[1:])
    if channels * len(places) <= MOST_PROBES:
        mixtures = torch.eye(channels, dtype=torch.float64)
    else:
        mixtures = torch.randn(MIXTURES, channels, generator=generator, dtype=torch.float64)
    impulses = torch.zeros(len(places), len(mixtures), *shape, dtype=torch.float64)
    for k, place in enumerate(places):
        impulses[k].view(len(mixtures), channels, -1)[:, :, _flat_index(place, shape[1:])] = mixtures
    return impulses.flatten(0, 1), len(mixtures)


def _places(extents: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The middle, the two far corners, and an edge in each direction."""
    middle, first, last = (tuple(f(n) for n in extents) for f in (lambda n: n // 2, lambda n: 0, lambda n: n - 1))
    edges = [tuple(0 if i == j else at for j, at in enumerate(middle)) for i in range(len(extents))]
    return list(dict.fromkeys([middle, first, last, *edges]))


_LOCAL = (*CONVOLUTIONS, *TRANSPOSED, _BatchNorm, *SAME_VALUES, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_LOCAL_MAXIMA = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)


def reach(graph: fx.GraphModule, region: list[fx.Node]) -> int:
    """How far a region's output looks, in steps of its input; 0 where places cannot be exchanged, as in flatten."""
    reach = 1
    for node in region:
        module = module_of(graph, node)
        if node.op == "get_attr" or node.target in (operator.add, torch.add, torch.cat):
            continue
        if not isinstance(module, (*_LOCAL, *_LOCAL_MAXIMA, InputNormalization)):
            return 0
        kernel, dilation = (getattr(module, name, 1) for name in ("kernel_size", "dilation"))
        extents = [k if isinstance(k, int) else max(k) for k in (kernel, dilation)]
        reach += extents[1] * (extents[0] - 1)
    return reach


def cropped(shapes: list[tuple[int, ...]], reach: int) -> list[tuple[int, ...]]:
    """The same values over fewer places, where those are enough to have a border and a middle."""
    if not reach or len({s[2:] for s in shapes}) > 1:
        return shapes
    return [(*s[:2], *(min(n, reach + 2) for n in s[2:])) for s in shapes]


def _flat_index(place: tuple[int, ...], shape: tuple[int, ...]) -> int:
    index = 0
    for at, extent in zip(place, shape, strict=True):
        index = index * extent + at
    return index

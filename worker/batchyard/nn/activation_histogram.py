"""Histograms of pre-activations and the percentiles that they tell."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

BINS = 240
REACH = 6.0
"""The grid covers +-6 standard deviations: 0.05 each bin."""
MOST_BINNED = 8192
"""Values of one layer in one forward pass that are counted, evenly spaced. The 85th percentile of as many values of a
normal distribution is that of the distribution within 0.017 of its standard deviation, a third of a bin."""
PERCENTILES = (0.15, 0.50, 0.85)


class Grid(NamedTuple):
    """Where the bins are; one grid for each row of values, [R] each, fp64."""

    location: Tensor
    """The middle."""
    scale: Tensor
    """The bins cover REACH times as much on either side."""

    @classmethod
    def over(cls, mean: Tensor, mean_of_squares: Tensor) -> Grid:
        """The grid of +-6 standard deviations of values with these moments."""
        var = (mean_of_squares - mean * mean).clamp_(min=0)
        # So fine that fp32 cannot tell the bins apart helps nobody: all values of a constant layer are in the middle.
        return cls(mean, torch.maximum(var.sqrt_(), mean.abs().mul_(1e-5).clamp_(min=1e-6)))

    @classmethod
    def of_affine(cls, gamma: Tensor, beta: Tensor, owners: Tensor, rows: int) -> Grid:
        """The grid of what a layer returns that standardises every channel; `owners` has the row of each channel, [C].

        The channels' means are beta, the mean of their squares is beta^2 + gamma^2: nobody needs to look.
        """
        gamma, beta = gamma.double(), beta.double()
        kinds = torch.stack([torch.ones_like(beta), beta, beta * beta + gamma * gamma])
        sums = torch.zeros(3, rows, dtype=torch.float64, device=gamma.device).index_add_(1, owners, kinds)
        return cls.over(sums[1] / sums[0], sums[2] / sums[0])

    def of(self, rows: Tensor) -> Grid:
        """Those of some rows."""
        return Grid(self.location[rows], self.scale[rows])


def histograms(z: Tensor, grid: Grid, scratch: Tensor) -> Tensor:
    """Of the values z [S, ...] of each row on its grid, [S, 240]; what lies outside counts in the outermost bins, and
    what is not a number is not counted. Overwrites `scratch`, which is of the shape of z.
    """
    values = thinned(z)
    per_unit, location = ((BINS / (2 * REACH)) / grid.scale, grid.location)
    half = BINS / 2
    places = torch.sub(values, _column(location, z), out=thinned(scratch)).mul_(_column(per_unit, z))
    places.clamp_(-half, half - 0.01).add_(half + 1)
    rows = torch.arange(len(z), device=z.device, dtype=torch.int32).mul_(1 + BINS).unsqueeze(1)
    # Whole before the rows are set apart: how a value is rounded must not depend on its row. NaN goes to a row's 0.
    indices = places.int().clamp_(min=0).add_(rows).flatten()
    size = len(z) * (1 + BINS)
    if indices.device.type == "cpu":
        counts = torch.bincount(indices, minlength=size)
    else:  # there bincount makes a host sync
        ones = torch.ones((), device=indices.device).expand(indices.shape)
        counts = torch.zeros(size, device=indices.device).scatter_add_(0, indices.long(), ones)
    return counts.view(-1, 1 + BINS)[:, 1:]


def _column(each: Tensor, like: Tensor) -> Tensor:
    return each.to(like.dtype).unsqueeze(1)


def thinned(z: Tensor) -> Tensor:
    """Those of the values z [S, ...] that are counted: at most MOST_BINNED of each row, evenly spaced, with a step that
    meets every channel and place.
    """
    values = z.flatten(1)
    columns = values.shape[1]
    step = -(-columns // MOST_BINNED)
    while step > 1 and math.gcd(step, columns) > 1:
        step += 1
    return values[:, ::step]


def percentiles(counts: Tensor, grid: Grid) -> Tensor:
    """15th, 50th and 85th percentile of each row, [R, 3], interpolated within a bin; NaN where nothing was counted."""
    upto = counts.cumsum(1)
    wanted = upto[:, -1:] * upto.new_tensor(PERCENTILES)
    bins = torch.searchsorted(upto, wanted).clamp_(max=BINS - 1)
    missing = upto.gather(1, bins).sub_(wanted)
    place = bins + 1 - missing / counts.gather(1, bins)
    location, scale = (each.unsqueeze(1) for each in grid)
    return location + scale * (place * (2 * REACH / BINS) - REACH)

"""The sums behind ActivationStats, over all points and layers of one worker, and where each has its place.

A row is one layer at one point; its channels are columns.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from batchyard.nn.activation_alike import Alike, of_channels, of_rows
from batchyard.nn.activation_histogram import BINS, Grid, histograms


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
    """What adds up over workers, fp64; one message, or one with `moments` and one with `histograms`."""

    message: Tensor
    moments: Tensor
    """The message up to the histograms."""
    histograms: Tensor
    """[R, 240]."""
    per_row: Tensor
    """Values per channel; and where a grid has to be found first, number, sum and sum of squares of the values of z
    that are counted: [4, R]."""
    batches: Tensor
    """The smallest batch of the workers that normalise together, in the place of the first of them: [R, workers]."""
    per_channel: Tensor
    """[5, R's channels]: what is above 0 if some gradient flows, values beyond saturation, m mu, m E[x^2], and m times
    this worker's mu^2."""

    @classmethod
    def zeros(cls, rows: int, workers: int, channels: int, device: torch.device) -> Sums:
        """Nothing yet."""
        size = (4 + workers + BINS) * rows + 5 * channels
        return cls.of(torch.zeros(size, dtype=torch.float64, device=device), rows, workers, channels)

    @classmethod
    def of(cls, message: Tensor, rows: int, workers: int, channels: int) -> Sums:
        """The parts of `message`, which may lack the histograms."""
        moments = message[: (4 + workers) * rows + 5 * channels]
        per_row, batches, per_channel = moments.tensor_split([4 * rows, (4 + workers) * rows])
        histograms = message[len(moments) :].view(-1, BINS)
        return cls(message, moments, histograms, per_row.view(4, -1), batches.view(rows, -1), per_channel.view(5, -1))


def add_up(sums: Sums, alike: Iterable[Alike], channels: tuple[int, ...], points: int, grid: Grid | None) -> None:
    """Adds what this worker has seen: with the histograms if `grid` says where they lie, else with what will tell."""
    groups, per_channel, per_row = [], [], []
    for part in alike:
        groups.append((part.rows, part.places))
        per_channel.append(of_channels(part))
        if grid is None:
            per_row.append(of_rows(part))
        else:
            count(sums.histograms, part, grid)
    device = sums.message.device
    if groups:
        layout = _layout(channels, points, tuple(groups), device)
        gates, moments = torch.cat(per_channel, 1).double().tensor_split([2])
        scatter_sums(
            sums.per_channel, layout.columns, torch.cat([gates, _moved_back(moments, layout.counts_of_columns)])
        )
        kinds = [layout.counts.unsqueeze(0)]
        if grid is None:
            counted, moments = torch.cat(per_row, 1).double().tensor_split([1])
            kinds += [counted, _moved_back(moments, counted[0])]
        scatter_sums(sums.per_row, layout.rows, torch.cat(kinds))
    _, owners = places(channels, points, device)
    _, _, mean, _, between = sums.per_channel
    torch.div(mean * mean, sums.per_row[0][owners].clamp(min=1), out=between)


def count(into: Tensor, part: Alike, grid: Grid) -> None:
    """Adds to each row, [R, 240], how many values of its samples lie in each bin."""
    rows = _on(part.rows, into.device)
    into.index_add_(0, rows, histograms(part.z, grid.of(rows), part.scratch).double())


def scatter_sums(into: Tensor, columns: Tensor, values: Tensor) -> None:
    """into[k, columns] += values[k] for each kind k; in one dimension, where index_add_ is ten times as fast."""
    kinds = torch.arange(len(values), device=columns.device).unsqueeze(1)
    into.view(-1).index_add_(0, (kinds * into.shape[1] + columns).flatten(), values.flatten())


def _moved_back(moments: Tensor, counts: Tensor) -> Tensor:
    """Sums and sums of squares, [2, ...], from those about the first value of `counts` values, [3, ...] with it."""
    first, total, squares = moments
    moved = first * counts
    return torch.stack([total + moved, squares + first * (moved + 2 * total)])


@functools.lru_cache(maxsize=64)
def _on(rows: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(rows, device=device)


@functools.lru_cache(maxsize=16)
def _layout(
    channels: tuple[int, ...], points: int, groups: tuple[tuple[tuple[int, ...], int], ...], device: torch.device
) -> _Layout:
    """Of the samples of all `groups`: the rows that each belongs to, and the values per channel."""
    starts, _ = places(channels, points, torch.device("cpu"))
    rows = torch.tensor([row for of, _ in groups for row in of], dtype=torch.int64)
    counts = torch.tensor([count for of, count in groups for _ in of], dtype=torch.float64)
    sizes = torch.tensor(channels * points)[rows]
    ends = sizes.cumsum(0)
    columns = torch.arange(int(sizes.sum())) + (starts[rows] - ends + sizes).repeat_interleave(sizes)
    return _Layout(*(each.to(device) for each in (rows, counts, columns, counts.repeat_interleave(sizes))))


@functools.lru_cache(maxsize=16)
def places(channels: tuple[int, ...], points: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For every row where its channels begin, and for every channel of every row its row."""
    sizes = torch.tensor(channels * points)
    return (sizes.cumsum(0) - sizes).to(device), torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(device)

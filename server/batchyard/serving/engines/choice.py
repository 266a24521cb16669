"""Which engines serve, given their times. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from batchyard.serving.engines.timings import Share, Trial

ONE_THREAD_IS_ENOUGH_SECONDS = 0.002
"""A largest batch faster than this gains nothing from more threads: the transport needs the other cores more."""

CLEAR_GAIN = 1.5
"""By this factor, over its whole range of batch sizes, a second engine must beat the best single one: it holds the
weights a second time. MLPs and ResNet-18 have one winner at all sizes (a factor of 7 and of 2 at batch 1)."""

SAME = 1.02
"""Engines whose times differ by less are equally fast: the order in which they are named decides, and fewer threads
come first. What else a machine does moves a table's times by a few per cent."""


def batch_sizes(max_batch: int) -> list[int]:
    """Powers of two up to max_batch, and max_batch itself."""
    powers = list(itertools.takewhile(lambda rows: rows < max_batch, (2**power for power in itertools.count())))
    return [*powers, max_batch]


def choose(trials: Sequence[Trial], max_batch: int) -> tuple[Share, ...]:
    """Who serves which batch sizes: one engine, or two where sizes clearly differ. Empty when none passed."""
    candidates = _candidates(trials, max_batch)
    if not candidates:
        return ()
    sizes = batch_sizes(max_batch)
    best = _best(candidates, sizes)
    pairs = [
        (split, _fastest(candidates, sizes[:split]), _fastest(candidates, sizes[split:]))
        for split in range(1, len(sizes))
    ]
    worthwhile = [
        (split, low, high)
        for split, low, high in pairs
        if low is not high and max(_gain(low, best, sizes[:split]), _gain(high, best, sizes[split:])) >= CLEAR_GAIN
    ]
    if not worthwhile:
        return (_share(best, max_batch),)
    split, low, high = min(
        worthwhile, key=lambda pair: _cost(pair[1], sizes[: pair[0]]) + _cost(pair[2], sizes[pair[0] :])
    )
    return _share(low, sizes[split - 1]), _share(high, max_batch)


def _candidates(trials: Sequence[Trial], max_batch: int) -> list[Trial]:
    """Those that passed; with several threads only where one is too slow."""
    passed = [trial for trial in trials if trial.passed and trial.seconds]
    single = [trial for trial in passed if trial.threads == 1]
    quickest = min((trial.seconds_for(max_batch) for trial in single), default=math.inf)
    return single if quickest < ONE_THREAD_IS_ENOUGH_SECONDS else passed


def _fastest(candidates: Sequence[Trial], sizes: Sequence[int]) -> Trial:
    return min(candidates, key=lambda trial: _cost(trial, sizes))


def _best(candidates: Sequence[Trial], sizes: Sequence[int]) -> Trial:
    """The first in line of those that are as fast as the fastest."""
    fastest = _fastest(candidates, sizes)
    return min((trial for trial in candidates if _gain(fastest, trial, sizes) < SAME), key=lambda trial: trial.threads)


def _cost(trial: Trial, sizes: Sequence[int]) -> float:
    """The sum of logarithms: half the time counts the same at every size."""
    return sum(math.log(trial.seconds_for(rows)) for rows in sizes)


def _gain(trial: Trial, other: Trial, sizes: Sequence[int]) -> float:
    """How many times faster it is over these sizes, in the geometric mean."""
    return math.exp((_cost(other, sizes) - _cost(trial, sizes)) / len(sizes))


def _share(trial: Trial, up_to: int) -> Share:
    return Share(up_to=up_to, engine=trial.engine, threads=trial.threads)

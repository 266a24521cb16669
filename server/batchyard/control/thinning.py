"""A long history in fewer points, of the same shape. Pure.

The rule: of each kind of measurement at most `most` events are kept. Where there are more, neighbours are put into
groups of equal size, and of each group the event with the lowest and the one with the highest value stay (the loss of
step metrics, the accuracy of evaluations; of layer statistics the first of each group), so that a spike is never
lost. The first and the newest event always stay. Of log lines the newest `most` stay. Events of other kinds (states,
phases) all stay. What is sent is always an event as it was stored, never a mean.

Which stay is decided by a sketch of each event, and in a very long history by those of its landmarks
(store/landmarks.py): it is never read whole.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from batchyard.training.events import Evaluation, LayerStatistics, LogLine, StepMetrics

MOST_POINTS = 100_000
"""More than this counts as this."""
FEWEST_POINTS = 8
MEASURED = (StepMetrics.kind, Evaluation.kind, LayerStatistics.kind)
"""Kinds of events that there may be a million of, and that are thinned by groups."""
VALUES = {StepMetrics.kind: "loss", Evaluation.kind: "accuracy"}
"""Kind of event -> its field by which it stands out."""


class Sketch(NamedTuple):
    """What is looked at of an event."""

    sequence: int
    kind: str
    value: float | None
    """Of the field in VALUES; NaN for what is not a finite number; None for other kinds."""


def kept(sketches: Iterable[Sketch], most: int) -> list[int]:
    """The sequences of the events that stay, in order. Holds at most about four times `most` sketches of each kind,
    which come in their kind's order.
    """
    most = within_bounds(most)
    lines = {kind: _Line(most) for kind in MEASURED}
    log: deque[int] = deque(maxlen=most)
    others: list[int] = []
    for sketch in sketches:
        line = lines.get(sketch.kind)
        if line is not None:
            line.add(sketch)
        elif sketch.kind == LogLine.kind:
            log.append(sketch.sequence)
        else:
            others.append(sketch.sequence)
    return sorted([*others, *log, *(sequence for line in lines.values() for sequence in line.kept())])


def within_bounds(most: int) -> int:
    """As many as are kept where `most` are asked for."""
    return min(max(most, FEWEST_POINTS), MOST_POINTS)


class _Line:
    """One kind's events, thinned whenever there are twice too many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._sketches: list[Sketch] = []

    def add(self, sketch: Sketch) -> None:
        self._sketches.append(sketch)
        if len(self._sketches) >= 4 * self._most:
            self._sketches = _thin(self._sketches, 2 * self._most)

    def kept(self) -> list[int]:
        few = self._sketches if len(self._sketches) <= self._most else _thin(self._sketches, self._most)
        return [sketch.sequence for sketch in few]


def _thin(sketches: list[Sketch], most: int) -> list[Sketch]:
    """At most `most` of them: the first, the newest, and those that stand out of each group between."""
    first, *between, newest = sketches
    each = 1 if first.value is None else 2
    size = math.ceil(len(between) / ((most - 2) // each))
    found = [first]
    for start in range(0, len(between), size):
        found += outstanding(between[start : start + size])
    return [*found, newest]


def outstanding(group: list[Sketch]) -> list[Sketch]:
    """Of neighbours of one kind those of the lowest and the highest value; where it has no values, the first."""
    if group[0].value is None:
        return group[:1]
    ends = {min(group, key=_rank), max(group, key=_rank)}
    return sorted(ends)


def _rank(sketch: Sketch) -> tuple[bool, float]:
    """What is not a number stands above all that are."""
    value = math.nan if sketch.value is None else sketch.value
    return (True, 0.0) if math.isnan(value) else (False, value)

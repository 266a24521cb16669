"""A long history in fewer points, of the same shape.

The rule: of each kind of measurement at most `most` events are kept. Where there are more, neighbours are put into
groups of equal size, and of each group the event with the lowest and the one with the highest value stay (the loss of
step metrics, the accuracy of evaluations; of layer statistics the first of each group), so that a spike is never
lost. The first and the newest event always stay. Of log lines the newest `most` stay. Events of other kinds (states,
phases) all stay. What is sent is always an event as it was stored, never a mean.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable

from batchyard.control.records import StoredEvent
from batchyard.training.events import Evaluation, Event, LayerStatistics, LogLine, Resumed, StepMetrics

MOST_POINTS = 100_000
"""More than this counts as this."""
FEWEST_POINTS = 8


class Thinned:
    """Takes a job's events in order and keeps few of them. Holds at most about four times `most` of each kind."""

    def __init__(self, most: int) -> None:
        most = min(max(most, FEWEST_POINTS), MOST_POINTS)
        self._measured = {
            StepMetrics: _Line(most, lambda event: event.loss),  # type: ignore[attr-defined]
            Evaluation: _Line(most, lambda event: event.accuracy),  # type: ignore[attr-defined]
            LayerStatistics: _Line(most, None),
        }
        self._log: deque[StoredEvent] = deque(maxlen=most)
        self._others: list[StoredEvent] = []

    def add(self, stored: Iterable[StoredEvent]) -> None:
        """Takes the next events."""
        for one in stored:
            line = self._measured.get(type(one.event))
            if isinstance(one.event, Resumed):  # read before it came: what it has made void
                for measured in self._measured.values():
                    measured.drop_above(one.event.step)
            if line is not None:
                line.add(one)
            elif isinstance(one.event, LogLine):
                self._log.append(one)
            else:
                self._others.append(one)

    def events(self) -> list[StoredEvent]:
        """What is kept, in order."""
        kept = [*self._others, *self._log]
        for line in self._measured.values():
            kept += line.kept()
        return sorted(kept, key=lambda stored: stored.sequence)


class _Line:
    """One kind's events, thinned whenever there are twice too many."""

    def __init__(self, most: int, value: Callable[[Event], float] | None) -> None:
        self._most = most
        self._value = value
        self._events: list[StoredEvent] = []

    def add(self, stored: StoredEvent) -> None:
        self._events.append(stored)
        if len(self._events) >= 4 * self._most:
            self._events = self._thin(2 * self._most)

    def drop_above(self, step: int) -> None:
        self._events = [stored for stored in self._events if stored.event.step <= step]  # type: ignore[attr-defined]

    def kept(self) -> list[StoredEvent]:
        return self._thin(self._most) if len(self._events) > self._most else self._events

    def _thin(self, most: int) -> list[StoredEvent]:
        """At most `most` of the events: the first, the newest, and those that stand out of each group between."""
        each = 1 if self._value is None else 2
        first, *between, newest = self._events
        size = math.ceil(len(between) / ((most - 2) // each))
        kept = [first]
        for start in range(0, len(between), size):
            kept += self._outstanding(between[start : start + size])
        return [*kept, newest]

    def _outstanding(self, group: list[StoredEvent]) -> list[StoredEvent]:
        if self._value is None:
            return group[:1]
        value = self._value
        ranked = sorted(group, key=lambda stored: (math.isnan(value(stored.event)), value(stored.event)))
        ends = {stored.sequence: stored for stored in (ranked[0], ranked[-1])}
        return [ends[sequence] for sequence in sorted(ends)]

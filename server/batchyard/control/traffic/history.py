"""The last hour of an inference plane's metrics, and the rates between any two of its moments."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from batchyard.control.traffic import samples
from batchyard.control.traffic.samples import Counted, Key, Sample

KEPT = 1801
"""Moments: an hour of them, two seconds apart. One takes about 2 KB for each version."""
REMEMBERED_SECONDS = 60.0
"""How long the counts of a version that is served no more are carried on: the rates of its last requests."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Everything that was counted since this process began, at one time."""

    number: int
    time: float
    """Seconds since the epoch."""
    counted: Mapping[Key, Counted]
    sample: Sample
    """What was read: for what is not counted."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """What happened between two moments."""

    time: float
    seconds: float
    versions: Mapping[Key, Counted]
    sample: Sample


@dataclass
class History:
    """Counts go on over restarts of the plane: between two moments as far apart as one likes, nothing is lost."""

    _moments: deque[Moment] = field(default_factory=lambda: deque(maxlen=KEPT))
    _last: dict[Key, tuple[float, Counted]] = field(default_factory=dict)
    """When a version was seen last, and its counters then."""
    _sums: dict[Key, Counted] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """Of the newest moment; 0: there is none."""
        return self._moments[-1].number if self._moments else 0

    @property
    def newest(self) -> Sample | None:
        """What was read last."""
        return self._moments[-1].sample if self._moments else None

    def add(self, time: float, sample: Sample) -> None:
        """Takes the next moment."""
        for key, version in sample.versions.items():
            seen = self._last.get(key)
            if seen is None and not self._moments:
                grown: Counted = {}  # what came before this process is not its to tell
            else:
                grown = samples.since(version.counted, seen[1] if seen else {})
            self._sums[key] = samples.total([self._sums.get(key, {}), grown])
            self._last[key] = time, version.counted
        for key in [key for key, (seen_at, _) in self._last.items() if time - seen_at > REMEMBERED_SECONDS]:
            del self._last[key], self._sums[key]
        moment = Moment(number=self.number + 1, time=time, counted=dict(self._sums), sample=sample)
        self._moments.append(moment)

    def points(self, seconds: float, stride: int, after: int = 0) -> Iterator[Point]:
        """The points of the last `seconds`, oldest first, each over `stride` readings; those that end after the moment
        `after`.
        """
        if not self._moments:
            return
        oldest = self._moments[-1].time - seconds
        chosen = (m for m in self._moments if m.number % stride == 0 and m.time >= oldest)
        for before, now in pairwise(chosen):
            if now.number > after:
                yield _between(before, now)


def _between(before: Moment, now: Moment) -> Point:
    versions = {key: samples.since(counted, before.counted.get(key, {})) for key, counted in now.counted.items()}
    return Point(time=now.time, seconds=now.time - before.time, versions=versions, sample=now.sample)

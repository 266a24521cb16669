"""Where the time of a step goes, measured in one step of 16, without a host sync."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Protocol

import torch

from batchyard.training.group import Group

PARTS = ("data", "forward", "backward", "collectives", "optimizer")
EVERY = 16
"""One step of so many is measured; of half as many where points are that close, so that each has one before it."""
MOST_MEASURED = 64
"""Steps between two reads; their events on CUDA are kept until then."""

Lap = tuple[str, float]
"""A part of a step and its seconds."""


class Laps(Protocol):
    """Measures what lies between marks."""

    def begin(self) -> None:
        """From here."""

    def lap(self, part: str) -> None:
        """What has passed since the mark before was `part`."""

    def read(self) -> Iterable[Lap]:
        """Everything since the last read, of a device that has come so far."""


class StepClock:
    """The mean seconds of each part of a step, as this worker sees them.

    On the CPU what SyncBatchNorm adds up over all workers within forward and backward counts as collectives, and so
    does the time for which slower workers are waited for. On CUDA it stays in forward and backward, the device's own
    times are taken, and a gap in which it waits for the host counts to the part that follows.
    """

    def __init__(self, group: Group, every_steps: int) -> None:
        """`every_steps`: between two points; where every step is one, points are measured, too."""
        self._laps: Laps = DeviceLaps() if group.device.type == "cuda" else HostLaps(group)
        self._every = EVERY if every_steps > EVERY else EVERY // 2
        self._all_are_points = every_steps == 1
        self._running, self._measured = False, 0

    def begin_step(self, step: int, *, at_point: bool) -> None:
        """A step begins; points are left out, as they have statistics to take."""
        due = step % self._every == self._every - 1 and self._measured < MOST_MEASURED
        self._running = due and (self._all_are_points or not at_point)
        if self._running:
            self._measured += 1
            self._laps.begin()

    def lap(self, part: str) -> None:
        """What this step has done since the mark before was `part`, one of PARTS."""
        if self._running:
            self._laps.lap(part)

    def read(self) -> dict[str, Any]:
        """By field of StepMetrics the mean over the steps measured since the last read; None where none was."""
        sums = dict.fromkeys(PARTS, 0.0)
        for part, seconds in self._laps.read():
            sums[part] += seconds
        count, self._measured, self._running = self._measured, 0, False
        return {f"{part}_seconds": seconds / count if count else None for part, seconds in sums.items()}


class HostLaps:
    """By the host's clock, which on the CPU is that of the work."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._found: list[Lap] = []
        self._at = self._in_collectives = 0.0

    def begin(self) -> None:
        """From here."""
        self._at, self._in_collectives = time.perf_counter(), self._group.collective_seconds

    def lap(self, part: str) -> None:
        """What has passed since the mark before was `part`, but for the time in collectives."""
        now, in_collectives = time.perf_counter(), self._group.collective_seconds
        inside = in_collectives - self._in_collectives
        self._found += [(part, now - self._at - inside), ("collectives", inside)]
        self._at, self._in_collectives = now, in_collectives

    def read(self) -> Iterable[Lap]:
        """Everything since the last read."""
        found, self._found = self._found, []
        return found


class DeviceLaps:
    """By events in the device's own queue, which the host does not wait for."""

    def __init__(self) -> None:
        self._found: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    def begin(self) -> None:
        """From here."""
        self._at = _event()

    def lap(self, part: str) -> None:
        """What the device does between the mark before and this one is `part`."""
        now = _event()
        self._found.append((part, self._at, now))
        self._at = now

    def read(self) -> Iterable[Lap]:
        """Everything since the last read; waits for the device unless it has come so far."""
        found, self._found = self._found, []
        if found:
            found[-1][2].synchronize()
        return [(part, since.elapsed_time(until) / 1000) for part, since, until in found]


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event

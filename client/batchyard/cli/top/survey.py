"""What a service is doing at one moment, and how fast: the difference between two looks."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from batchyard.cli.sparkline import Course
from batchyard.client import Client, RpcError, TrainingJob, plain, state_name
from batchyard.client.events import ENDED
from batchyard.client.predictions import Counts

COUNTED = 500
"""Jobs, newest first, that a look counts."""
ENDED_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """One served version since the look before; None where nothing came or nothing was seen before."""

    model: str
    version: str
    requests_per_second: float | None
    failures_per_second: float | None
    queue_ms: float | None
    """Mean time that an answered request waited."""
    request_ms: float | None
    """Mean time of an answered request, from its arrival to its reply."""
    batch: float | None
    """Mean rows in a batch."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """One look."""

    control: str
    """Address, and what is wrong with it if it does not answer."""
    inference: str
    counts: dict[str, int]
    """State -> jobs."""
    active: tuple[TrainingJob, ...]
    """Jobs that have not ended, oldest first."""
    ended: tuple[TrainingJob, ...]
    """The last few that have."""
    traffic: tuple[Traffic, ...]

    def plain(self) -> dict[str, Any]:
        """The same, JSON-ready."""
        jobs = {"active": [plain(job) for job in self.active], "ended": [plain(job) for job in self.ended]}
        rest = {"counts": self.counts, **jobs, "traffic": [asdict(each) for each in self.traffic]}
        return {"control": self.control, "inference": self.inference, **rest}


@dataclass
class Observer:
    """Looks at a service again and again; keeps what only several looks can tell."""

    client: Client
    clock: Callable[[], float] = time.monotonic
    courses: dict[str, Course] = field(default_factory=dict)
    """Job -> the course of its loss while it was looked at."""
    _seen: dict[str, int] = field(default_factory=dict)
    _before: dict[tuple[str, str], Counts] = field(default_factory=dict)
    _at: float | None = None

    def look(self) -> Survey:
        """The service now. A plane that does not answer is said to be so."""
        settings = self.client.settings
        try:
            jobs, control = self._jobs(), settings.control
        except RpcError as error:
            jobs, control = [], error.message
        try:
            traffic, inference = self._traffic(), settings.inference
        except RpcError as error:
            traffic, inference = (), error.message
        return Survey(
            control=control,
            inference=inference,
            counts=dict(Counter(map(state_name, jobs))),
            active=tuple(job for job in reversed(jobs) if job.state not in ENDED),
            ended=tuple(job for job in jobs if job.state in ENDED)[:ENDED_SHOWN],
            traffic=traffic,
        )

    def _jobs(self) -> list[TrainingJob]:
        jobs = [job for job, _ in zip(self.client.jobs(), range(COUNTED), strict=False)]
        for job in jobs:
            progress = job.progress
            if job.state not in ENDED and progress.HasField("loss") and self._seen.get(job.name) != progress.step:
                self._seen[job.name] = progress.step
                self.courses.setdefault(job.name, Course()).add(progress.loss)
        return jobs

    def _traffic(self) -> tuple[Traffic, ...]:
        found, now = self.client.inference.counts(), self.clock()
        seconds = None if self._at is None else now - self._at
        traffic = tuple(_difference(each, self._before.get((each.model, each.version)), seconds) for each in found)
        self._before, self._at = {(each.model, each.version): each for each in found}, now
        return traffic


def _difference(now: Counts, before: Counts | None, seconds: float | None) -> Traffic:
    """Rates and means between two looks; counters that went back belong to a version that was loaded again."""
    if before is None or seconds is None or seconds <= 0 or now.answered < before.answered:
        nothing = dict.fromkeys(("requests_per_second", "failures_per_second", "queue_ms", "request_ms", "batch"))
        return Traffic(model=now.model, version=now.version, **nothing)
    answered, batches = now.answered - before.answered, now.batches - before.batches
    return Traffic(
        model=now.model,
        version=now.version,
        requests_per_second=answered / seconds,
        failures_per_second=(now.failed - before.failed) / seconds,
        queue_ms=1e3 * (now.queue_seconds - before.queue_seconds) / answered if answered else None,
        request_ms=1e3 * (now.request_seconds - before.request_seconds) / answered if answered else None,
        batch=(now.rows - before.rows) / batches if batches else None,
    )

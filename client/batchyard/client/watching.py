"""Where a watch stands in a job's events, and what follows from a stream's end: decisions only, nothing here waits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from batchyard.client import errors
from batchyard.client.events import ENDED, KINDS, Detail, Event, from_response
from batchyard.client.retry import delays
from batchyard.v1.training_pb2 import (
    GetTrainingJobRequest,
    StateChange,
    TrainingJob,
    WatchTrainingJobRequest,
    WatchTrainingJobResponse,
)

_SOUND_STREAM = 5.0
"""Seconds that a stream without events must have lived not to count as one more failure."""


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """What to watch, and for how long."""

    name: str
    """trainingJobs/{id}"""
    cursor: str = ""
    """Of the last event already seen."""
    kinds: Sequence[type[Detail]] = ()
    """Only these; empty: all."""
    history_only: bool = False
    """End after the stored events."""
    timeout: float | None = None
    """Seconds; None: until the job has ended."""
    reconnect_for: float = 60.0
    """Seconds to go on trying when a service that has answered is gone."""


class Watching:
    """One watch over its streams: each asks on from the last cursor received."""

    def __init__(self, options: WatchOptions) -> None:
        self._options = options
        self._wanted = tuple(options.kinds) or tuple(KINDS)
        self._cursor = options.cursor
        self._history_only = options.history_only
        self._deadline = None if options.timeout is None else time.monotonic() + options.timeout
        self._connected = False
        self._pauses, self._failing_since = delays(), 0.0
        self._opened, self._opened_at = 0.0, ""
        self.done = False
        """Whether nothing more will come."""

    def open(self) -> tuple[WatchTrainingJobRequest, float | None]:
        """The next stream's request and the seconds that it may take."""
        self._opened, self._opened_at = time.monotonic(), self._cursor
        # State changes are always asked for: they tell when to stop.
        kinds = {KINDS[kind] for kind in (*self._wanted, StateChange)}
        request = WatchTrainingJobRequest(
            name=self._options.name,
            cursor=self._cursor,
            kinds=sorted(kinds) if len(kinds) < len(KINDS) else (),
            history_only=self._history_only,
        )
        return request, None if self._deadline is None else max(0.001, self._deadline - self._opened)

    def take(self, response: WatchTrainingJobResponse) -> Event | None:
        """The event of one message; None where it is of a kind that was not asked for."""
        self._connected, self._cursor = True, response.cursor
        event = from_response(response)
        self.done = event is not None and event.ends_job
        return event if event is not None and isinstance(event.detail, self._wanted) else None

    def ended(self) -> None:
        """The service has ended the stream."""
        self.done = self.done or self._history_only

    def broke(self, failure: errors.RpcError) -> None:
        """Returns when the connection broke, or the service is stopping: both are reasons to come back."""
        if isinstance(failure, errors.DeadlineExceededError):
            raise errors.WaitTimeoutError(
                f"{self._options.name} had not ended in time; it goes on", hint="Wait longer, or cancel it."
            ) from None
        if failure.code not in ("UNAVAILABLE", "CANCELLED"):
            raise failure from None

    def look_up(self) -> tuple[GetTrainingJobRequest, float | None]:
        """After a stream: how to ask whether the service answers again, and for how many seconds, None: as ever.

        Raises UnavailableError when streams only ever break.
        """
        now = time.monotonic()
        if self._progressed or now - self._opened > _SOUND_STREAM:
            self._pauses, self._failing_since = delays(), 0.0
        self._failing_since = self._failing_since or now
        if now - self._failing_since > self._options.reconnect_for:
            message = f"{self._options.name}: the stream of events breaks again and again"
            raise errors.UnavailableError(message, code="UNAVAILABLE", hint="Look into the service's log.")
        patience = self._options.reconnect_for if self._connected else None
        return GetTrainingJobRequest(name=self._options.name), patience

    def pause_before_next(self, job: TrainingJob) -> float:
        """Seconds until the next stream, now that the job is known to be `job`: its last event may have been seen."""
        if job.state in ENDED and not self._progressed:
            self._history_only = True
        return next(self._pauses)

    @property
    def _progressed(self) -> bool:
        """Whether the last stream brought anything."""
        return self._cursor != self._opened_at

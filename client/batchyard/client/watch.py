"""Following a job's events over reconnections, without losing or repeating any."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from batchyard.client import errors
from batchyard.client.calls import Caller, delays
from batchyard.client.events import ENDED, KINDS, Detail, Event, from_response
from batchyard.v1.training_pb2 import GetTrainingJobRequest, StateChange, WatchTrainingJobRequest
from batchyard.v1.training_pb2_grpc import TrainingServiceStub

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


class Watch:
    """Iterates over the events of one job. After a broken connection it asks on from the last cursor received."""

    def __init__(self, service: TrainingServiceStub, caller: Caller, options: WatchOptions) -> None:
        self._service, self._caller, self._options = service, caller, options
        self._wanted = tuple(options.kinds) or tuple(KINDS)
        self._cursor = options.cursor
        self._history_only = options.history_only
        self._deadline = None if options.timeout is None else time.monotonic() + options.timeout
        self._connected = False
        self._done = False

    def __iter__(self) -> Iterator[Event]:
        pauses, failing_since = delays(), None
        while True:
            before, opened = self._cursor, time.monotonic()
            yield from self._one_stream()
            if self._done:
                return
            progressed = self._cursor != before
            if progressed or time.monotonic() - opened > _SOUND_STREAM:
                pauses, failing_since = delays(), None
            failing_since = failing_since or time.monotonic()
            self._after_break(progressed, failing_since)
            time.sleep(next(pauses))

    def _one_stream(self) -> Iterator[Event]:
        """Events until the stream ends or breaks; sets _done when nothing more will come."""
        left = None if self._deadline is None else max(0.001, self._deadline - time.monotonic())
        stream: Any = self._service.WatchTrainingJob(self._request(), timeout=left, metadata=self._caller.metadata)
        try:
            for response in stream:
                self._connected, self._cursor = True, response.cursor
                event = from_response(response)
                self._done = event is not None and event.ends_job
                if event is not None and isinstance(event.detail, self._wanted):
                    yield event
                if self._done:
                    return
            self._done = self._history_only
        except grpc.RpcError as error:
            self._raise_unless_broken(self._caller.failure(error))
        finally:
            stream.cancel()

    def _raise_unless_broken(self, failure: errors.RpcError) -> None:
        """Returns when the connection broke, or the service is stopping: both are reasons to come back."""
        if isinstance(failure, errors.DeadlineExceededError):
            raise errors.WaitTimeoutError(
                f"{self._options.name} had not ended in time; it goes on", hint="Wait longer, or cancel it."
            ) from None
        if failure.code not in ("UNAVAILABLE", "CANCELLED"):
            raise failure from None

    def _after_break(self, progressed: bool, failing_since: float) -> None:
        """Waits until the service answers again, and notices a job whose last event has been seen already.

        Raises UnavailableError when the service stays away.
        """
        if time.monotonic() - failing_since > self._options.reconnect_for:
            message = f"{self._options.name}: the stream of events breaks again and again"
            raise errors.UnavailableError(message, code="UNAVAILABLE", hint="Look into the service's log.")
        patience = self._options.reconnect_for if self._connected else None
        request = GetTrainingJobRequest(name=self._options.name)
        job = self._caller(self._service.GetTrainingJob, request, timeout=patience, retry_for=patience)
        if job.state in ENDED and not progressed:
            self._history_only = True

    def _request(self) -> WatchTrainingJobRequest:
        # State changes are always asked for: they tell when to stop.
        kinds = {KINDS[kind] for kind in (*self._wanted, StateChange)}
        return WatchTrainingJobRequest(
            name=self._options.name,
            cursor=self._cursor,
            kinds=sorted(kinds) if len(kinds) < len(KINDS) else (),
            history_only=self._history_only,
        )

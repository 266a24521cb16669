"""An executor without processes: attempts do what a script, or a test, says. For tests and for trying things out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable

from batchyard.cluster.executor import Attempt, AttemptId, Batch, Capacity, UnknownAttemptError
from batchyard.training.events import Ended, Event

Script = Callable[[Attempt], Iterable[Event]]
"""What an attempt reports as soon as it starts."""


def silent(attempt: Attempt) -> Iterable[Event]:
    """The script of an attempt that waits to be told what to report."""
    return ()


class FakeExecutor:
    """Keeps the Executor protocol to the letter. It is the cluster: several control planes, one after another, may use
    the same one.

    Args:
        workers: as `capacity` tells.
        gpus: as `capacity` tells.
        script: what each attempt reports when it starts.
        obedient: whether an attempt that is cancelled or paused ends at once; else it ends when it is told to.
    """

    def __init__(self, workers: int = 2, gpus: int = 0, script: Script = silent, obedient: bool = True) -> None:
        self.has = Capacity(workers=workers, gpus=gpus)
        """What `capacity` answers; may be set."""
        self.script = script
        self.obedient = obedient
        self.started: list[Attempt] = []
        """Every attempt that was started, in order."""
        self.cancelled: list[AttemptId] = []
        """Every attempt that was asked to stop, in order."""
        self.paused: list[AttemptId] = []
        """Every attempt that was asked to pause, in order."""
        self._events: dict[AttemptId, list[Event]] = {}
        self._lock = threading.Lock()

    def capacity(self) -> Capacity:
        """What it was built with, or `has` was set to."""
        return self.has

    def start(self, attempt: Attempt) -> None:
        """Takes the attempt and runs its script."""
        with self._lock:
            if attempt.id not in self._events:
                self._events[attempt.id] = []
                self.started.append(attempt)
                self._add(attempt.id, tuple(self.script(attempt)))

    def poll(self, attempt: AttemptId, cursor: int) -> Batch:
        """The events after `cursor`. Raises UnknownAttemptError."""
        with self._lock:
            events = self._known(attempt)
            return Batch(cursor=len(events), events=tuple(events[cursor:]))

    def cancel(self, attempt: AttemptId) -> None:
        """Ends the attempt if it is obedient."""
        with self._lock:
            if attempt in self._events and not self._ended(attempt):
                self.cancelled.append(attempt)
                if self.obedient:
                    self._add(attempt, (Ended(outcome="cancelled"),))

    def pause(self, attempt: AttemptId) -> None:
        """Ends the attempt if it is obedient."""
        with self._lock:
            if attempt in self._events and not self._ended(attempt):
                self.paused.append(attempt)
                if self.obedient:
                    self._add(attempt, (Ended(outcome="paused"),))

    def release(self, attempt: AttemptId) -> None:
        """Forgets an ended attempt. Raises RuntimeError when it has not ended."""
        with self._lock:
            if attempt in self._events and not self._ended(attempt):
                raise RuntimeError(f"attempt {attempt} has not ended; cancel it first")
            self._events.pop(attempt, None)

    def keep_only(self, attempts: Collection[AttemptId]) -> None:
        """Forgets the others."""
        with self._lock:
            self._events = {attempt: events for attempt, events in self._events.items() if attempt in attempts}

    def close(self) -> None:
        """Ends every attempt."""
        with self._lock:
            for attempt in self._events:
                self._add(attempt, (Ended(outcome="cancelled"),))

    def report(self, job: str, *events: Event) -> None:
        """Has the job's newest attempt report. What comes after Ended is dropped."""
        with self._lock:
            self._add(self._newest(job), events)

    def lose(self, job: str) -> None:
        """Forgets the job's newest attempt, as if its machine had burnt down."""
        with self._lock:
            del self._events[self._newest(job)]

    def runs(self, job: str) -> bool:
        """Whether an attempt of the job is known that has not ended."""
        with self._lock:
            return any(known.job == job and not self._ended(known) for known in self._events)

    def _add(self, attempt: AttemptId, events: tuple[Event, ...]) -> None:
        for event in events:
            if not self._ended(attempt):
                self._events[attempt].append(event)

    def _known(self, attempt: AttemptId) -> list[Event]:
        if attempt not in self._events:
            raise UnknownAttemptError(f"attempt {attempt} is not known to this executor")
        return self._events[attempt]

    def _newest(self, job: str) -> AttemptId:
        known = [attempt for attempt in self._events if attempt.job == job]
        if not known:
            raise UnknownAttemptError(f"no attempt of {job} is known to this executor")
        return max(known, key=lambda attempt: attempt.number)

    def _ended(self, attempt: AttemptId) -> bool:
        events = self._events[attempt]
        return bool(events) and isinstance(events[-1], Ended)

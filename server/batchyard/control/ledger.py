"""Writing: one transaction, and, once it is committed, word of it to everyone who waits. Nothing is told that is not
stored, and what is stored is told even if the caller has gone away meanwhile.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy import Connection

from batchyard.control.clock import Clock
from batchyard.control.lifecycle import Step
from batchyard.control.notices import Notices
from batchyard.control.records import Job
from batchyard.control.states import State
from batchyard.control.store import jobs
from batchyard.control.store.database import Database
from batchyard.failpoints import failpoint
from batchyard.training.events import Event

T = TypeVar("T")
log = logging.getLogger(__name__)
MODELS = "models"
"""The topic that advances when what should be served may have changed."""


@dataclass(frozen=True)
class JobChange:
    """Something that was stored about a job."""

    job: Job
    """As it is now."""
    old_state: State | None
    """None: the job is new."""
    reported: tuple[Event, ...]
    """What the executor delivered, Published and Ended included."""


@dataclass
class Unit:
    """One transaction being written."""

    connection: Connection
    now: float
    changes: list[JobChange] = field(default_factory=list)
    models_changed: bool = False

    def add(self, step: Step, request_id: str | None) -> Job:
        """Stores a new job and its first events."""
        job = jobs.add(self.connection, step.job, request_id)
        job = jobs.save(self.connection, job, job, step.events)
        self.changes.append(JobChange(job, None, ()))
        return job

    def save(self, before: Job, step: Step, reported: Iterable[Event] = ()) -> Job:
        """Stores what has happened to a job. Raises StaleWriteError if it is not as `before` any more."""
        job = jobs.save(self.connection, before, step.job, step.events)
        self.changes.append(JobChange(job, before.state, tuple(reported)))
        return job


Listener = Callable[[JobChange], None]
"""Called in the event loop, in the order of the commits; must not wait."""


class Ledger:
    """The only way to write; also lends the database for reading."""

    def __init__(
        self, database: Database, notices: Notices, clock: Clock, fence: Callable[[Connection], None] | None = None
    ) -> None:
        """`fence` is asked inside each transaction that writes, first, and raises where this process may not."""
        self._database = database
        self._fence = fence
        self._clock = clock
        self._listeners: list[Listener] = []
        self._writes: set[asyncio.Task[object]] = set()
        self.notices = notices
        self.read = database.read

    def listen(self, listener: Listener) -> None:
        """Tells `listener` of every change to a job from now on."""
        self._listeners.append(listener)

    async def write(self, work: Callable[[Unit], T]) -> T:
        """Runs `work` in a transaction and tells of its changes. A cancelled caller does not stop it half way."""
        task = asyncio.ensure_future(self._write(work))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return await asyncio.shield(task)

    async def _write(self, work: Callable[[Unit], T]) -> T:
        units: list[Unit] = []

        def transaction(connection: Connection) -> T:
            if self._fence is not None:
                self._fence(connection)
            unit = Unit(connection, self._clock.now())
            result = work(unit)
            units.append(unit)
            return result

        try:
            result = await self._database.write(transaction)
            failpoint("ledger.before_tell")
        except Exception:
            await self._tell_what_is_stored(units)
            raise
        self._tell(*units)
        return result

    async def _tell_what_is_stored(self, units: list[Unit]) -> None:
        """After an error that may have come when the commit was done: whoever waits for it is told if it was."""
        for unit in units:
            try:
                unit.changes = await self.read(functools.partial(_stored, changes=unit.changes))
            except Exception:
                log.exception("whether %s is stored cannot be told", [change.job.id for change in unit.changes])
                return
            self._tell(unit)

    def _tell(self, unit: Unit) -> None:
        for change in unit.changes:
            for listener in self._listeners:
                _call(listener, change)
            self.notices.advance(change.job.id, change.job.last_event)
        if unit.models_changed:
            self.notices.advance(MODELS, self.notices.position(MODELS) + 1)

    async def close(self) -> None:
        """Waits for the writes that are under way."""
        await asyncio.gather(*self._writes, return_exceptions=True)


def _stored(connection: Connection, changes: list[JobChange]) -> list[JobChange]:
    """Those of the changes that are."""
    return [change for change in changes if jobs.find(connection, change.job.id) == change.job]


def _call(listener: Listener, change: JobChange) -> None:
    try:
        listener(change)
    except Exception:
        # The change is stored; one that fails to hear of it must not keep the others from hearing.
        log.exception("a listener failed on %s", change.job.id)

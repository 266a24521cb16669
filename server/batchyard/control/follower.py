"""Follows one attempt, from its start in the executor to its release: polls, stores, passes a cancel on."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from batchyard.cluster.event_log import FULL
from batchyard.cluster.executor import Batch, Executor, UnknownAttemptError
from batchyard.control.attempts import Attempts, Publication, Try
from batchyard.control.lease import LeaseLostError
from batchyard.control.lifecycle import try_again
from batchyard.control.publishing import ReadManifest, inspect
from batchyard.control.records import Failure
from batchyard.control.states import State
from batchyard.control.store.database import DatabaseAwayError
from batchyard.control.store.full import StorageFullError
from batchyard.control.store.jobs import StaleWriteError
from batchyard.failpoints import failpoint
from batchyard.training.events import Ended, Event, Published

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger(__name__)

FIRST_POLL_SECONDS = 0.01
POLL_SECONDS = 0.1
"""A warm worker reports within a tenth of a second, so the first polls come quickly, each after twice the time."""
RETRY_SECONDS = 1.0
GIVE_UP_SECONDS = 120.0
"""Longer than an executor itself takes to give a lost attempt its end."""


class Follower:
    """Belongs to one attempt. `run` returns when it is over; it never raises but when cancelled."""

    def __init__(
        self,
        given: Try,
        attempts: Attempts,
        executor: Executor,
        read_manifest: ReadManifest,
        threads: ThreadPoolExecutor,
    ) -> None:
        self.given = given
        self._attempts = attempts
        self._executor = executor
        self._read_manifest = read_manifest
        self._threads = threads
        self._wake = asyncio.Event()
        self._cancel = given.job.state == State.CANCELLING
        self._cancel_passed_on = False
        self._pausing = given.job.state == State.PAUSING or given.preempted_by is not None
        self._pause_passed_on = False
        self.giving_way_to = given.preempted_by
        """The id of the job that it makes room for."""
        self._failing_since: float | None = None

    def cancel(self) -> None:
        """Has the executor stop the attempt; returns at once."""
        self._cancel = True
        self._wake.set()

    @property
    def leaving(self) -> bool:
        """Whether the attempt has been asked to end, for whatever reason."""
        return self._cancel or self._pausing

    def give_way(self, to: str) -> None:
        """Has the executor pause the attempt for the job `to`; returns at once."""
        self.giving_way_to = to
        self.pause()

    def pause(self) -> None:
        """Has the executor pause the attempt; returns at once."""
        self._pausing = True
        self._wake.set()

    async def run(self) -> None:
        """Follows the attempt to its end."""
        # A STARTING attempt that has reported nothing may not have reached the executor when an earlier control
        # plane died. To start one that it knows changes nothing.
        if self.given.job.state == State.STARTING and self.given.cursor == 0 and not await self._start():
            return
        pause = FIRST_POLL_SECONDS
        while not self.given.over:
            await self._sleep(RETRY_SECONDS if self._failing_since is not None else pause)
            pause = min(2 * pause, POLL_SECONDS)
            if not await self._try_once():
                return
        await self._release()

    async def _start(self) -> bool:
        """Whether the executor has taken the attempt."""
        try:
            failpoint("start.before_executor")
            await self._call(self._executor.start, self.given.attempt)
            failpoint("start.after_executor")
        except Exception as error:
            await self._abandon()  # whatever there is of it; another attempt may follow
            full = isinstance(error, OSError) and error.errno in FULL
            await self._fail(_no_room(self.given, error) if full else _incident("could not be started", self.given))
            return False
        return True

    async def _try_once(self) -> bool:
        """One poll. False: there is nothing left to follow."""
        try:
            await self._pass_on()
            batch = await self._call(self._executor.poll, self.given.id, self.given.cursor)
            if batch.events and not await self._recorded(batch):
                return False
        except UnknownAttemptError:
            await self._fail(_lost(self.given))
            return False
        except (StorageFullError, DatabaseAwayError) as error:
            self._wait_for_the_store(error)
            return True
        except LeaseLostError:
            return False  # another control plane follows it, so nothing may be done to it here
        except Exception:
            return await self._retry_or_give_up()
        self._failing_since = None
        return True

    async def _pass_on(self) -> None:
        """Tells the executor, once, what is asked of the attempt."""
        cancels = self._cancel and not self._cancel_passed_on
        if not cancels and not (self._pausing and not self._pause_passed_on):
            return
        failpoint("pass_on.before_executor")
        if cancels:
            await self._call(self._executor.cancel, self.given.id)
            self._cancel_passed_on = True
        else:
            await self._call(self._executor.pause, self.given.id)
            self._pause_passed_on = True
        failpoint("pass_on.after_executor")

    async def _recorded(self, batch: Batch) -> bool:
        """Whether there is more to come of the attempt after these events.

        What is stored may be ahead: of a commit whose answer was lost with the connection. Nobody else writes.
        """
        try:
            await self._record(batch)
        except StaleWriteError as error:
            stored = await self._attempts.unfinished()
            found = next((each for each in stored if each.id == self.given.id), None)
            if found is None:
                log.warning("%s: %s; it is stopped", self.given.id, error)
                await (self._release() if isinstance(batch.events[-1], Ended) else self._abandon())
                return False
            log.warning("%s: %s; going on from there", self.given.id, error)
            self.given = found
        return True

    async def _record(self, batch: Batch) -> None:
        publication: Publication | None = None
        last = batch.events[-1]
        if isinstance(last, Ended) and last.outcome == "succeeded":
            published = next((event for event in batch.events if isinstance(event, Published)), self.given.published)
            found = await self._call(inspect, self.given, published, self._read_manifest)
            if isinstance(found, Ended):
                log.error("%s: %s", self.given.id, found.cause)
                batch = dataclasses.replace(batch, events=_ending_with(batch.events, found))
            else:
                publication = found
        failpoint("record.before_transaction")
        self.given = await self._attempts.record(self.given, batch, publication)

    def _wait_for_the_store(self, error: StorageFullError | DatabaseAwayError) -> None:
        """However long that takes: the executor keeps the events."""
        if self._failing_since is None:
            log.error("%s: %s", self.given.id, error)
        self._failing_since = asyncio.get_running_loop().time()

    async def _retry_or_give_up(self) -> bool:
        now = asyncio.get_running_loop().time()
        self._failing_since = self._failing_since or now
        if now - self._failing_since < GIVE_UP_SECONDS:
            log.exception("%s cannot be followed; trying again in %g s", self.given.id, RETRY_SECONDS)
            return True
        await self._abandon()
        await self._fail(_incident(f"could not be followed for {GIVE_UP_SECONDS:.0f} s", self.given))
        return False

    async def _fail(self, failure: Failure) -> None:
        try:
            await self._store_failure(failure)
        except StaleWriteError:
            log.warning("%s is over already", self.given.id)
        except Exception:
            # The next start of the service finds the job as it is now, and tries again.
            log.exception("%s: its failure could not be stored: %s", self.given.id, failure.cause)

    async def _store_failure(self, failure: Failure) -> None:
        while True:
            try:
                return await self._attempts.fail(self.given, failure)
            except (StorageFullError, DatabaseAwayError) as error:
                self._wait_for_the_store(error)
            await self._sleep(RETRY_SECONDS)

    async def _abandon(self) -> None:
        try:
            await self._call(self._executor.cancel, self.given.id)
        except Exception:
            log.exception("%s could not be cancelled", self.given.id)

    async def _release(self) -> None:
        try:
            failpoint("release.before_executor")
            await self._call(self._executor.release, self.given.id)
            failpoint("release.after_executor")
        except Exception:
            log.exception("%s could not be released", self.given.id)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
            self._wake.clear()
        except TimeoutError:
            pass

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls what may block in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))


def _ending_with(events: tuple[Event, ...], ended: Ended) -> tuple[Event, ...]:
    return (*events[:-1], ended)


def _lost(given: Try) -> Failure:
    return Failure(
        failure_class="infrastructure",
        cause=f"attempt {given.id.number} is gone: the executor does not know it any more, so it was lost when the "
        "service, the cluster or the machine stopped",
        next_step=try_again(given.id.job),
    )


def _no_room(given: Try, error: Exception) -> Failure:
    return Failure(
        failure_class="infrastructure",
        cause=f"attempt {given.id.number} could not be started: the disk of the data folder has no room ({error})",
        next_step=f"make room there, then {try_again(given.id.job)}",
    )


def _incident(what: str, given: Try) -> Failure:
    """For an exception that nobody foresaw: the log has it, the user an id to find it by."""
    incident = uuid.uuid4().hex[:12]
    log.exception("incident %s: attempt %s %s", incident, given.id, what)
    return Failure(
        failure_class="infrastructure",
        cause=f"attempt {given.id.number} {what}; the service's log has the reason as incident {incident}",
        next_step=f"look into the log, then {try_again(given.id.job)}",
    )

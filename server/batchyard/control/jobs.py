"""Training jobs: create, look at, follow, cancel. Knows no transport; raises batchyard.endpoint.errors."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from batchyard.cluster.executor import Capacity
from batchyard.control import lifecycle, names, tokens
from batchyard.control.annotations import annotated
from batchyard.control.feed import Feed, Subscription
from batchyard.control.ledger import JobChange, Ledger, Unit
from batchyard.control.lifecycle import Step
from batchyard.control.listing import Listing
from batchyard.control.orders import check_order
from batchyard.control.quotas import NO_QUOTA, Quota, check_user
from batchyard.control.records import Job, StoredEvent
from batchyard.control.repeats import Request, check_same
from batchyard.control.states import State
from batchyard.control.store import jobs as store
from batchyard.control.store import landmarks, sparklines
from batchyard.control.store import listing as listings
from batchyard.control.thinning import kept
from batchyard.endpoint.errors import NotFoundError, UnavailableError
from batchyard.failpoints import failpoint
from batchyard.training.spec import TrainingJobSpec

log = logging.getLogger(__name__)

EVENTS_PER_READ = 500
NEWEST_FIRST = Listing()


@dataclass(frozen=True, kw_only=True)
class JobPage:
    """A page of a listing."""

    jobs: tuple[Job, ...]
    next_page_token: str
    """Empty on the last page."""


@dataclass(frozen=True, kw_only=True)
class EventPage:
    """Some of a job's events, in order."""

    events: tuple[StoredEvent, ...]
    cursor: str
    """To ask with next; after events that were left out for their kind, too."""
    more: bool
    """Whether there are more already."""
    ended: bool
    """Whether no event will ever follow."""


class Jobs:
    """The jobs of this service."""

    def __init__(
        self,
        ledger: Ledger,
        capacity: Callable[[], Capacity],
        allow_python: tuple[str, ...] = (),
        quota: Quota = NO_QUOTA,
    ) -> None:
        """`capacity` says what the cluster could run at once; it may block. `allow_python`: packages of users' own
        networks. `quota`: what each user may have running at once.
        """
        self._quota = quota
        self._ledger = ledger
        self._capacity = capacity
        self._allow_python = allow_python
        self._feed = Feed(ledger)

    async def create(
        self, spec: Mapping[str, Any], request_id: str = "", user: str = "", tags: Collection[str] = ()
    ) -> Job:
        """Stores a job of `user` as QUEUED. The same request_id with the same spec gives the same job again.

        `spec` is what TrainingJobSpec.from_mapping reads. Raises InvalidInputError with every violation (fields
        "spec....", "request_id", "batchyard-user" and "tags[n]"), AlreadyExistsError when request_id came with another
        spec, and UnavailableError when the cluster cannot be asked what it has.
        """
        capacity = await self._has()
        order = check_order(spec, request_id, capacity, self._allow_python)
        self._quota.check(order.workers.count, order.workers.count * order.workers.gpus_per_worker)
        check_user(user)
        job = await self._ledger.write(lambda unit: _create(unit, order, request_id or None, user, tags))
        failpoint("create.after_commit")
        return job

    async def _has(self) -> Capacity:
        try:
            return await asyncio.to_thread(self._capacity)
        except Exception:
            log.exception("the cluster cannot be asked what it has")
            message = "the cluster does not answer, so it is given no jobs: the service's log says why; try again"
            raise UnavailableError(message, reason="CLUSTER_UNAVAILABLE") from None

    async def get(self, job_id: str) -> Job:
        """The job. Raises NotFoundError."""
        return await self._ledger.read(lambda connection: _get(connection, job_id))

    async def list(self, page_size: int = 0, page_token: str = "", listing: Listing = NEWEST_FIRST) -> JobPage:
        """A page of the jobs that `listing` asks for. Raises InvalidInputError."""
        size, after = tokens.page_size(page_size), tokens.read_page_token(page_token, listing.name)
        assert after is None or isinstance(after, int)
        found = await self._ledger.read(lambda connection: listings.page(connection, listing, size + 1, after))
        shown = tuple(found[:size])
        token = tokens.page_token(listing.name, listings.place(listing, shown, after)) if len(found) > size else ""
        return JobPage(jobs=shown, next_page_token=token)

    async def counts(self, search: str = "") -> Mapping[State, int]:
        """How many jobs a search finds in each state (Listing.search); states without any are left out."""
        return await self._ledger.read(lambda connection: listings.counts(connection, search))

    async def cancel(self, job_id: str) -> Job:
        """Asks the job to stop: CANCELLED if it had not started, else CANCELLING. Cancelling twice changes nothing.

        Raises NotFoundError, and PreconditionError when the job has SUCCEEDED or FAILED.
        """
        return await self._request(job_id, lifecycle.cancel)

    async def pause(self, job_id: str) -> Job:
        """Asks the job to pause: PAUSED if it had not started, else PAUSING. Pausing twice changes nothing.

        Raises NotFoundError, and PreconditionError when it is being cancelled or has ended.
        """
        return await self._request(job_id, lifecycle.pause)

    async def resume(self, job_id: str) -> Job:
        """Has a PAUSED job wait for its turn again. Resuming a job that waits or runs changes nothing.

        Raises NotFoundError, and PreconditionError when it is PAUSING, is being cancelled or has ended.
        """
        return await self._request(job_id, lifecycle.resume)

    async def annotate(
        self, job_id: str, add_tags: Collection[str] = (), remove_tags: Collection[str] = (), note: str | None = None
    ) -> Job:
        """Changes what people have written about the job: adds tags, takes tags away, sets the note unless it is None.

        Raises NotFoundError, and InvalidInputError (fields "add_tags[n]" and "note").
        """

        def work(unit: Unit) -> Job:
            before = _get(unit.connection, job_id)
            job = annotated(before, add_tags, remove_tags, note)
            store.annotate(unit.connection, job)
            unit.changes.append(JobChange(job, job.state, ()))
            return job

        return await self._ledger.write(work)

    async def _request(self, job_id: str, what: Callable[[Job, float], Step]) -> Job:
        job = await self._ledger.write(lambda unit: _ask(unit, job_id, what))
        failpoint("request.after_commit")
        return job

    async def events_after(
        self, job_id: str, cursor: str = "", kinds: Collection[str] = (), limit: int = EVENTS_PER_READ
    ) -> EventPage:
        """Stored events after `cursor` ("": from the first), at once; only of `kinds` (Event.kind) if any are given.

        Raises NotFoundError, and OutOfRangeError for a cursor that is not this job's.
        """
        return await self._ledger.read(lambda connection: _events_after(connection, job_id, cursor, kinds, limit))

    async def thinned_history(
        self, job_id: str, cursor: str = "", kinds: Collection[str] = (), most: int = 1000, until: str = ""
    ) -> EventPage:
        """All stored events after `cursor`, but at most `most` of each kind of measurement (thinning.py).

        With `until`, those up to that cursor alone: a part of the history in more detail. Raises what `events_after`
        raises.
        """
        return await self._ledger.read(lambda connection: _thinned(connection, job_id, cursor, kinds, most, until))

    async def losses(self, job_ids: Collection[str], count: int) -> Mapping[str, Sequence[float | None]]:
        """The course of each job's loss in at most `count` numbers, None for what is not a finite one.

        Unknown jobs are left out.
        """

        def read(connection: Connection) -> Mapping[str, Sequence[float | None]]:
            jobs = [store.find(connection, job_id) for job_id in job_ids]
            return {job.id: sparklines.losses(connection, job, count) for job in jobs if job is not None}

        return await self._ledger.read(read)

    async def wait_for_events(self, job_id: str, cursor: str) -> None:
        """Returns when the job has events after `cursor`, the cursor of an EventPage that had no more.

        Never returns for an ended job. Raises UnavailableError at shutdown.
        """
        place = tokens.read_cursor(cursor, job_id, last=2**63)
        await self._ledger.notices.wait(job_id, place)

    def changes(self) -> Subscription:
        """Every job that changes from now on; to be used as a context manager."""
        return self._feed.subscribe()

    async def watch(
        self, job_id: str, cursor: str = "", kinds: Collection[str] = (), history_only: bool = False
    ) -> AsyncIterator[StoredEvent]:
        """Every stored event after `cursor`, then new ones as they come; ends after the event of a terminal state.

        Raises what `events_after` raises, and UnavailableError at shutdown.
        """
        while True:
            page = await self.events_after(job_id, cursor, kinds)
            for event in page.events:
                yield event
            cursor = page.cursor
            if page.more:
                continue
            if page.ended or history_only:
                return
            await self.wait_for_events(job_id, cursor)


def _create(unit: Unit, order: TrainingJobSpec, request_id: str | None, user: str, tags: Collection[str]) -> Job:
    spec = order.to_mapping()
    earlier = store.find_by_request(unit.connection, request_id) if request_id else None
    if earlier is not None:
        request = Request(id=str(request_id), asked=spec)
        # A spec from before a key was there stands for that key's default.
        was = TrainingJobSpec.from_mapping(earlier.spec).to_mapping()
        check_same(names.job(earlier.id), request, was, root="spec.")
        return earlier
    job_id = f"{order.name}-{secrets.token_hex(4)}"
    while store.find(unit.connection, job_id) is not None:
        job_id = f"{order.name}-{secrets.token_hex(4)}"
    job = Job(number=0, id=job_id, user=user, spec=spec, state=State.QUEUED, create_time=unit.now)
    job = annotated(job, add=tags, field="tags")
    job = unit.add(lifecycle.accept(job), request_id)
    failpoint("create.before_commit")
    return job


def _get(connection: Connection, job_id: str) -> Job:
    job = store.find(connection, job_id)
    if job is None:
        name = names.job(job_id)
        message = f"{name} does not exist: `batchyard jobs` lists those that do"
        raise NotFoundError(message, reason="JOB_NOT_FOUND", metadata={"name": name})
    return job


def _ask(unit: Unit, job_id: str, what: Callable[[Job, float], Step]) -> Job:
    job = _get(unit.connection, job_id)
    step = what(job, unit.now)
    job = unit.save(job, step) if step.events else job
    failpoint("request.before_commit")
    return job


def _events_after(connection: Connection, job_id: str, cursor: str, kinds: Collection[str], limit: int) -> EventPage:
    job = _get(connection, job_id)
    place = tokens.read_cursor(cursor, job_id, job.last_event)
    events = store.events_after(connection, job, place, kinds, limit)
    seen = events[-1].sequence if len(events) == limit else job.last_event
    more = seen < job.last_event
    return EventPage(events=tuple(events), cursor=tokens.cursor(job_id, seen), more=more, ended=job.ended and not more)


def _thinned(
    connection: Connection, job_id: str, cursor: str, kinds: Collection[str], most: int, until: str
) -> EventPage:
    job = _get(connection, job_id)
    place = tokens.read_cursor(cursor, job_id, job.last_event)
    last = tokens.read_cursor(until, job_id, job.last_event) or job.last_event
    part = replace(job, last_event=last)  # as the job was then, but for what has become void since
    sequences = kept(landmarks.sketches(connection, part, place, kinds, most), most)
    events = tuple(store.events_at(connection, job, sequences))
    ended = job.ended and last == job.last_event
    return EventPage(events=events, cursor=tokens.cursor(job_id, last), more=False, ended=ended)

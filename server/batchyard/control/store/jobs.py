"""Jobs, attempts and events: rows to records and back. Every function runs inside the caller's transaction."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, func, insert, select, update

from batchyard.control import tokens
from batchyard.control.records import AttemptSummary, Failure, Job, Progress, StoredEvent
from batchyard.control.states import ACTIVE, State
from batchyard.control.store import checkpoints, landmarks
from batchyard.control.store.payload import dump, load
from batchyard.control.store.schema import attempts, events, jobs
from batchyard.training.events import Event, Resumed

MOST_NAMED = 500
"""Events that one query asks for by their sequence."""


@dataclass(frozen=True, kw_only=True)
class AttemptRow:
    """One try at a job, as far as its events are stored."""

    number: int
    artifact_uri: str
    cursor: int
    published_uri: str | None
    published_sha256: str | None
    resume_from: str | None
    end_time: float | None
    preempted_by: str | None


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """What admission needs to know of a job."""

    id: str
    priority: int
    workers: int
    gpus: int
    """Of all its workers."""
    user: str = ""


class StaleWriteError(Exception):
    """The row has changed since it was read, or the attempt is no longer the job's: the write is refused."""


def find(connection: Connection, job_id: str) -> Job | None:
    """The job, or None."""
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
    return None if row is None else job_of(row)


def find_by_request(connection: Connection, request_id: str) -> Job | None:
    """The job that a request created, or None."""
    row = connection.execute(select(jobs).where(jobs.c.request_id == request_id)).one_or_none()
    return None if row is None else job_of(row)


def add(connection: Connection, job: Job, request_id: str | None) -> Job:
    """Inserts a new job; returns it with its number."""
    workers = job.spec["workers"]
    count, gpus = workers["count"], workers["count"] * workers["gpus_per_worker"]
    values = {"id": job.id, "request_id": request_id, "user": job.user, "spec": dict(job.spec)}
    values |= {"workers": count, "gpus": gpus, "tags": _together(job.tags), "note": job.note}
    result = connection.execute(insert(jobs).values(**values, **_columns(job)))
    assert result.inserted_primary_key is not None
    return dataclasses.replace(job, number=result.inserted_primary_key[0])


def annotate(connection: Connection, job: Job) -> None:
    """Writes the job's tags and its note, and nothing else: `save` leaves them alone."""
    values = {"tags": _together(job.tags), "note": job.note}
    connection.execute(update(jobs).where(jobs.c.number == job.number).values(**values))


def _together(tags: Sequence[str]) -> str:
    return f" {' '.join(tags)} " if tags else ""


def save(connection: Connection, before: Job, after: Job, new: Iterable[Event]) -> Job:
    """Writes a job's new state together with the events that led to it. A Resumed event makes void what was reported of
    later steps before it. Raises StaleWriteError.
    """
    numbered = list(enumerate(new, before.last_event + 1))
    rows = [
        {"job_number": before.number, "sequence": sequence, "time": event.time, "attempt": after.attempt}
        | {"kind": event.kind, "payload": dump(event)}
        for sequence, event in numbered
    ]
    after = dataclasses.replace(after, last_event=before.last_event + len(rows))
    unchanged = (jobs.c.number == before.number) & (jobs.c.last_event == before.last_event)
    if connection.execute(update(jobs).where(unchanged).values(**_columns(after))).rowcount != 1:
        raise StaleWriteError(f"job {before.id} has changed since event {before.last_event}")
    if rows:
        connection.execute(insert(events), rows)
    for sequence, event in numbered:
        if isinstance(event, Resumed):
            checkpoints.supersede(connection, before.number, sequence, event.step)
    _mark(connection, before, after, [sequence for sequence, event in numbered if isinstance(event, Resumed)])
    return after


def _mark(connection: Connection, before: Job, after: Job, resumed: Sequence[int]) -> None:
    """Brings the landmarks up to date; those of blocks with events that a resume has made void are chosen again."""
    void = [first for first in (landmarks.first_void(connection, before.number, one) for one in resumed) if first]
    since = min([before.last_event, *(first - 1 for first in void)])
    landmarks.extend(connection, before.number, since, after.last_event, anew=bool(void))


def queued(connection: Connection, limit: int = 1000) -> list[QueuedJob]:
    """The jobs that wait, in order: of higher priority first, then older ones."""
    priority = func.coalesce(jobs.c.spec["priority"].as_integer(), 0)  # specs from before there were priorities lack it
    columns = (jobs.c.id, priority.label("priority"), jobs.c.workers, jobs.c.gpus, jobs.c.user)
    query = select(*columns).where(jobs.c.state == State.QUEUED)
    rows = connection.execute(query.order_by(priority.desc(), jobs.c.number).limit(limit))
    return [QueuedJob(**row._mapping) for row in rows]


def active(connection: Connection) -> list[Job]:
    """The jobs that an executor may be running."""
    query = select(jobs).where(jobs.c.state.in_(sorted(ACTIVE))).order_by(jobs.c.number)
    return [job_of(row) for row in connection.execute(query)]


def states(connection: Connection) -> list[tuple[str, State]]:
    """Every job's id and state, in order of creation."""
    rows = connection.execute(select(jobs.c.id, jobs.c.state).order_by(jobs.c.number))
    return [(row.id, State(row.state)) for row in rows]


def events_after(
    connection: Connection, job: Job, sequence: int, kinds: Collection[str], limit: int
) -> list[StoredEvent]:
    """Up to `limit` events of the job after `sequence`, in order; of these kinds alone if any are given. Those that a
    resume has made void are left out.
    """
    query = _valid(select(events), job, sequence, kinds)
    rows = connection.execute(query.order_by(events.c.sequence).limit(limit))
    return [_stored_event(job.id, row) for row in rows]


def events_at(connection: Connection, job: Job, sequences: Sequence[int]) -> Iterator[StoredEvent]:
    """The events of the job with these sequences, in order."""
    for start in range(0, len(sequences), MOST_NAMED):
        named = events.c.sequence.in_(sequences[start : start + MOST_NAMED])
        query = select(events).where(events.c.job_number == job.number, named).order_by(events.c.sequence)
        yield from (_stored_event(job.id, row) for row in connection.execute(query))


def _valid(query: Select[Any], job: Job, sequence: int, kinds: Collection[str]) -> Select[Any]:
    """Of the job's events after `sequence`, of these kinds if any are given, those that no resume has made void."""
    query = query.where(
        events.c.job_number == job.number, events.c.sequence > sequence, events.c.superseded_by.is_(None)
    )
    return query.where(events.c.kind.in_(sorted(kinds))) if kinds else query


def add_attempt(connection: Connection, job: Job, artifact_uri: str, now: float) -> None:
    """Begins the row of the job's present attempt, which is to go on from the newest checkpoint."""
    values = {"job_number": job.number, "number": job.attempt, "artifact_uri": artifact_uri, "cursor": 0}
    newest = checkpoints.newest(connection, job)
    connection.execute(insert(attempts).values(**values, resume_from=newest and newest.uri, start_time=now))


def attempt(connection: Connection, job: Job) -> AttemptRow:
    """The job's present attempt."""
    found = (attempts.c.job_number == job.number) & (attempts.c.number == job.attempt)
    row = connection.execute(select(attempts).where(found)).one()
    names = (field.name for field in dataclasses.fields(AttemptRow))
    return AttemptRow(**{name: row._mapping[name] for name in names})


def attempt_summaries(connection: Connection, job: Job) -> list[AttemptSummary]:
    """Every attempt of the job, oldest first."""
    columns = [attempts.c[field.name] for field in dataclasses.fields(AttemptSummary)]
    query = select(*columns).where(attempts.c.job_number == job.number).order_by(attempts.c.number)
    return [AttemptSummary(**row._mapping) for row in connection.execute(query)]


def save_attempt(connection: Connection, job: Job, before: AttemptRow, **values: Any) -> None:
    """Writes an attempt on, unless someone else has. Raises StaleWriteError."""
    same = (attempts.c.job_number == job.number) & (attempts.c.number == before.number)
    unchanged = same & (attempts.c.cursor == before.cursor)
    if connection.execute(update(attempts).where(unchanged).values(**values)).rowcount != 1:
        raise StaleWriteError(f"attempt {before.number} of {job.id} has changed since event {before.cursor}")


def _columns(job: Job) -> dict[str, Any]:
    """The columns that change in a job's life."""
    failure = job.failure
    return {
        "state": job.state.value,
        "failure_class": failure and failure.failure_class,
        "failure_cause": failure and failure.cause,
        "failure_next_step": failure and failure.next_step,
        "progress": job.progress and dataclasses.asdict(job.progress),
        "attempt": job.attempt,
        "model_version": job.model_version,
        "create_time": job.create_time,
        "start_time": job.start_time,
        "first_step_time": job.first_step_time,
        "end_time": job.end_time,
        "last_event": job.last_event,
    }


def job_of(row: Row[Any]) -> Job:
    """A row of the table as a record."""
    values: Mapping[str, Any] = dict(row._mapping)
    same = ("number", "id", "user", "spec", "attempt", "model_version", "create_time", "start_time", "first_step_time")
    return Job(
        **{name: values[name] for name in (*same, "end_time", "last_event", "note")},
        tags=tuple(values["tags"].split()),
        state=State(values["state"]),
        failure=_failure(values),
        progress=None if values["progress"] is None else Progress(**values["progress"]),
    )


def _failure(values: Mapping[str, Any]) -> Failure | None:
    if values["failure_class"] is None:
        return None
    return Failure(
        failure_class=values["failure_class"], cause=values["failure_cause"], next_step=values["failure_next_step"]
    )


def _stored_event(job_id: str, row: Row[Any]) -> StoredEvent:
    return StoredEvent(
        sequence=row.sequence,
        cursor=tokens.cursor(job_id, row.sequence),
        attempt=row.attempt,
        event=load(row.payload),
    )

"""Checkpoints, and what a resume makes void. Every function runs inside the caller's transaction."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select, update

from batchyard.control.records import Checkpoint, Job
from batchyard.control.states import TERMINAL, State
from batchyard.control.store.schema import attempts, checkpoints, events, jobs
from batchyard.training.events import Checkpointed, Evaluation, Event, LayerStatistics, Resumed, StepMetrics

OF_A_STEP = (StepMetrics.kind, Evaluation.kind, LayerStatistics.kind, Checkpointed.kind)
"""Kinds of events that tell of one step."""


def newest(connection: Connection, job: Job) -> Checkpoint | None:
    """The checkpoint that the job's next attempt goes on from."""
    columns = [checkpoints.c[field.name] for field in dataclasses.fields(Checkpoint)]
    query = select(*columns).where(checkpoints.c.job_number == job.number)
    row = connection.execute(query.order_by(checkpoints.c.step.desc()).limit(1)).one_or_none()
    return None if row is None else Checkpoint(**row._mapping)


def record(connection: Connection, job: Job, reported: Iterable[Event]) -> None:
    """Takes what the job's present attempt has reported of checkpoints into account."""
    for event in reported:
        if isinstance(event, Checkpointed):
            _add(connection, job, event)
        elif isinstance(event, Resumed):
            _drop(connection, job, above=event.step)
            present = (attempts.c.job_number == job.number) & (attempts.c.number == job.attempt)
            connection.execute(update(attempts).where(present).values(resumed_step=event.step))


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a job's rows refer to."""

    ended: bool
    names: frozenset[str]
    """Of the checkpoints' folders."""


def held(connection: Connection, job_ids: Collection[str]) -> dict[str, Held]:
    """By job, those of `job_ids` that are known; some hundreds at a time."""
    wanted = select(jobs.c.id, jobs.c.state, checkpoints.c.uri).where(jobs.c.id.in_(job_ids))
    rows = connection.execute(wanted.outerjoin(checkpoints, jobs.c.number == checkpoints.c.job_number)).all()
    names: dict[str, set[str]] = {row.id: set() for row in rows}
    for row in rows:
        if row.uri is not None:
            names[row.id].add(row.uri.rstrip("/").rpartition("/")[2])
    ended = {row.id: State(row.state) in TERMINAL for row in rows}
    return {job: Held(ended=ended[job], names=frozenset(found)) for job, found in names.items()}


def retire(connection: Connection, job: Job | None = None) -> None:
    """Forgets every checkpoint but the last of a job that has SUCCEEDED; None: of all of them."""
    same = checkpoints.alias("same")
    last = select(func.max(same.c.step)).where(same.c.job_number == checkpoints.c.job_number).scalar_subquery()
    done = select(jobs.c.number).where(jobs.c.state == State.SUCCEEDED)
    if job is not None:
        done = done.where(jobs.c.number == job.number)
    connection.execute(delete(checkpoints).where(checkpoints.c.job_number.in_(done), checkpoints.c.step < last))


def supersede(connection: Connection, job_number: int, sequence: int, step: int) -> None:
    """Makes void what was reported of steps above `step` before event `sequence`."""
    before = (events.c.job_number == job_number) & (events.c.sequence < sequence)
    above = events.c.kind.in_(OF_A_STEP) & (events.c.payload["step"].as_integer() > step)
    void = before & above & events.c.superseded_by.is_(None)
    connection.execute(update(events).where(void).values(superseded_by=sequence))


def failures(connection: Connection, job: Job) -> int:
    """How many of the job's attempts have failed for reasons of the infrastructure."""
    of_job = (attempts.c.job_number == job.number) & (attempts.c.outcome == "failed")
    query = select(func.count()).select_from(attempts)
    return connection.execute(query.where(of_job & (attempts.c.failure_class == "infrastructure"))).scalar_one()


def _add(connection: Connection, job: Job, event: Checkpointed) -> None:
    """Adds a row, and drops those of the checkpoints that the worker has removed: it keeps the newest few."""
    values = {"step": event.step, "uri": event.uri, "sha256": event.sha256, "bytes": event.bytes, "time": event.time}
    connection.execute(insert(checkpoints).values(job_number=job.number, attempt=job.attempt, **values))
    keep = int(job.spec.get("checkpoint", {}).get("keep", 1))
    steps = select(checkpoints.c.step).where(checkpoints.c.job_number == job.number)
    kept = list(connection.execute(steps.order_by(checkpoints.c.step.desc()).limit(keep)).scalars())
    _drop(connection, job, below=kept[-1])


def _drop(connection: Connection, job: Job, *, above: int | None = None, below: int | None = None) -> None:
    void = checkpoints.c.step > above if above is not None else checkpoints.c.step < below
    connection.execute(delete(checkpoints).where((checkpoints.c.job_number == job.number) & void))

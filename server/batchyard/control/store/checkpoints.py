"""Checkpoints, and what a resume makes void. Every function runs inside the caller's transaction."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from sqlalchemy import Connection, delete, func, insert, select, update

from batchyard.control.records import Checkpoint, Job
from batchyard.control.store.schema import attempts, checkpoints, events
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

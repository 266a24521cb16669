"""Checkpoints, and what a resume makes void. Every function runs inside the caller's transaction."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from batchyard.control.records import Checkpoint, Job
from batchyard.control.states import TERMINAL, State
from batchyard.control.store.schema import attempts, checkpoints, events, jobs
from batchyard.training.events import Checkpointed, Evaluation, Event, LayerStatistics, Resumed, StepMetrics
from batchyard.training.spec.retention import retained

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
    names: frozenset[str] = frozenset()
    """Of the checkpoints' folders."""
    folder: str | None = None
    """The URI of the job's folder that they are in; None where there are none."""


def held(connection: Connection, job_ids: Collection[str]) -> dict[str, Held]:
    """By job, those of `job_ids` that are known; some hundreds at a time."""
    wanted = select(jobs.c.id, jobs.c.state, checkpoints.c.uri).where(jobs.c.id.in_(job_ids))
    rows = connection.execute(wanted.outerjoin(checkpoints, jobs.c.number == checkpoints.c.job_number)).all()
    uris: dict[str, list[str]] = {row.id: [] for row in rows}
    for row in rows:
        if row.uri is not None:
            uris[row.id].append(row.uri.rstrip("/"))
    ended = {row.id: State(row.state) in TERMINAL for row in rows}
    return {job: _held(job, ended[job], found) for job, found in uris.items()}


def _held(job_id: str, ended: bool, uris: list[str]) -> Held:
    parted = [uri.rpartition("/") for uri in uris]
    folder = next((folder for folder, _, _ in parted if folder.endswith(f"/{job_id}")), None)
    return Held(ended=ended, names=frozenset(name for *_, name in parted), folder=folder)


def retire(connection: Connection, job: Job | None = None) -> None:
    """Forgets every checkpoint but the last, and the best, of a job that has SUCCEEDED; None: of all of them."""
    several = select(checkpoints.c.job_number).group_by(checkpoints.c.job_number).having(func.count() > 1)
    done = select(jobs.c.number, jobs.c.spec).where(jobs.c.state == State.SUCCEEDED, jobs.c.number.in_(several))
    if job is not None:
        done = done.where(jobs.c.number == job.number)
    for number, spec in connection.execute(done).all():
        _keep(connection, number, keep=1, keep_best=_keep_best(spec))


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
    """Adds a row, and drops those of the checkpoints that are not kept any more; then Retention removes them."""
    values = {"step": event.step, "uri": event.uri, "sha256": event.sha256, "bytes": event.bytes, "time": event.time}
    connection.execute(insert(checkpoints).values(job_number=job.number, attempt=job.attempt, **values))
    keep = int(job.spec.get("checkpoint", {}).get("keep", 1))
    _keep(connection, job.number, keep=keep, keep_best=_keep_best(job.spec))


def _keep_best(spec: Mapping[str, Any]) -> int:
    """0 in specs from before there was a choice."""
    return int(spec.get("checkpoint", {}).get("keep_best", 0))


def _keep(connection: Connection, job_number: int, *, keep: int, keep_best: int) -> None:
    """Drops the rows of all checkpoints but these; see training.spec.retention."""
    of_job = checkpoints.c.job_number == job_number
    accuracies: dict[int, float | None] = dict.fromkeys(
        connection.execute(select(checkpoints.c.step).where(of_job)).scalars()
    )
    if keep_best:
        accuracies |= _evaluated(connection, job_number, accuracies)
    kept = retained(accuracies, keep, keep_best)
    void = [step for step in accuracies if step not in kept]
    if void:
        connection.execute(delete(checkpoints).where(of_job, checkpoints.c.step.in_(void)))


def _evaluated(connection: Connection, job_number: int, steps: Collection[int]) -> dict[int, float]:
    """Held-out accuracy after those of `steps` that have an evaluation: it comes before the checkpoint of its step."""
    step, accuracy = events.c.payload["step"].as_integer(), events.c.payload["accuracy"].as_float()
    valid = (events.c.kind == Evaluation.kind) & events.c.superseded_by.is_(None) & step.in_(list(steps))
    found = connection.execute(select(step, accuracy).where((events.c.job_number == job_number) & valid))
    return {row[0]: row[1] for row in found}


def _drop(connection: Connection, job: Job, *, above: int) -> None:
    void = checkpoints.c.step > above
    connection.execute(delete(checkpoints).where((checkpoints.c.job_number == job.number) & void))

"""The course of a job's loss in a few numbers. Runs inside the caller's transaction."""

from __future__ import annotations

import math

from sqlalchemy import Connection, literal, select, union_all

from batchyard.control.records import Job
from batchyard.control.store.payload import number
from batchyard.control.store.schema import events
from batchyard.training.events import StepMetrics


def losses(connection: Connection, job: Job, count: int) -> list[float | None]:
    """The loss at `count` places spread evenly over the job's events, in order; None for what is not a finite number.

    Fewer where the job has reported less. Each place is one look into the primary key, however long the history.
    """
    places = sorted({1 + job.last_event * place // count for place in range(count)})
    marks = union_all(*(select(literal(place).label("place")) for place in places)).subquery()
    later = events.alias()
    first = (
        select(later.c.sequence)
        .where(later.c.job_number == job.number, later.c.kind == StepMetrics.kind, later.c.superseded_by.is_(None))
        .where(later.c.sequence >= marks.c.place)
        .order_by(later.c.sequence)
        .limit(1)
        .scalar_subquery()
    )
    found = select(first.label("sequence")).select_from(marks).distinct().subquery()
    query = select(events.c.payload["loss"].as_string()).where(events.c.job_number == job.number)
    rows = connection.execute(query.join(found, events.c.sequence == found.c.sequence).order_by(events.c.sequence))
    told = [number(value) for (value,) in rows]
    return [value if math.isfinite(value) else None for value in told]

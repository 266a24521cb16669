"""What stands out of a long history, kept beside it. Every function runs inside the caller's transaction.

At level n the events of a job fall into blocks of BASE ** n. Of each block that is whole, the landmarks are, of each
kind of measurement, the event of the lowest value, that of the highest (thinning.VALUES) and the last. A page that
shows a thousand of a million points then reads some ten thousand landmarks, of the highest level that is fine enough,
and never the history. Writing them costs a sixth more rows, of a few numbers each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain, groupby, islice
from typing import Any

from sqlalchemy import Connection, Select, case, delete, func, insert, select

from batchyard.control.records import Job, StateChange
from batchyard.control.store.payload import number
from batchyard.control.store.schema import NOT_MEASURED, events, landmarks
from batchyard.control.thinning import MEASURED, VALUES, Sketch, outstanding, within_bounds
from batchyard.training.events import KINDS, LogLine

BASE = 16
LEVELS = 4
OF_A_BLOCK = 3
"""Landmarks of one kind: the lowest, the highest, the last."""
ROWS_AT_ONCE = 5000
OTHERS = sorted({*KINDS, StateChange.kind} - {*MEASURED, LogLine.kind})
"""Kinds of which there are few. They are named, as "not a log line" would be looked for in the whole history."""


def extend(connection: Connection, job_number: int, before: int, last: int, *, anew: bool = False) -> None:
    """Adds the landmarks of the blocks that events `before` + 1 to `last` make whole; `anew`: that were so before."""
    for level in range(1, LEVELS + 1):
        size = BASE**level
        first, end = before // size * size, last // size * size
        if anew:
            _forget(connection, job_number, level, first)
        if first == end:
            return
        finer = _sketches(connection, job_number, level - 1, (first, end), MEASURED)
        blocks = groupby(finer, key=_block(size))
        place = {"job_number": job_number, "level": level}
        found = (place | _row(sketch) for _, block in blocks for sketch in _landmarks(block))
        while rows := list(islice(found, ROWS_AT_ONCE)):
            connection.execute(insert(landmarks), rows)


def first_void(connection: Connection, job_number: int, sequence: int) -> int | None:
    """The first event that event `sequence` has made void."""
    void = (events.c.job_number == job_number) & (events.c.superseded_by == sequence)
    return connection.execute(select(func.min(events.c.sequence)).where(void)).scalar()


def sketches(connection: Connection, job: Job, sequence: int, kinds: Collection[str], most: int) -> Iterator[Sketch]:
    """What thinning to `most` of each kind needs to know of the job's events after `sequence`, in each kind's order."""
    most = within_bounds(most)
    level = _level(job.last_event - sequence, most)
    measured = [kind for kind in MEASURED if kind in kinds or not kinds]
    found = (_sketches(connection, job.number, *part, measured) for part in _parts(sequence, job.last_event, level))
    return chain(_told(connection, job, sequence, kinds, most), *found)


def _parts(after: int, last: int, level: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """The first events themselves, then landmarks of `level` as far as blocks are whole, and ever finer ones."""
    head = min(last, after + BASE) if level else after
    yield 0, (after, head)
    for finer in range(level, -1, -1):
        end = max(head, last // BASE**finer * BASE**finer)
        yield finer, (head, end)
        head = end


def _level(count: int, most: int) -> int:
    """The highest at which `count` events have `most` landmarks of a kind that each of them is of."""
    return next((level for level in range(LEVELS, 0, -1) if OF_A_BLOCK * (count // BASE**level) >= most), 0)


def _told(connection: Connection, job: Job, after: int, kinds: Collection[str], most: int) -> Iterable[Sketch]:
    """Of log lines the newest `most`; all events of other kinds that measure nothing."""
    query = _valid(select(events.c.sequence, events.c.kind), job.number, after, job.last_event).where(NOT_MEASURED)
    if kinds:
        query = query.where(events.c.kind.in_(sorted(kinds)))
    log = query.where(events.c.kind == LogLine.kind).order_by(events.c.sequence.desc()).limit(most)
    lines = connection.execute(log).all()[::-1]
    others = connection.execute(query.where(events.c.kind.in_(OTHERS)))
    return [Sketch(place, kind, None) for place, kind in chain(lines, others)]


def _sketches(
    connection: Connection, job_number: int, level: int, between: tuple[int, int], kinds: Collection[str]
) -> Iterator[Sketch]:
    """The measurements (level 0) or landmarks after the first of two sequences, up to the second, in order."""
    query = _measurements(job_number, *between) if level == 0 else _landmarks_of(job_number, level, *between)
    kind, sequence = (events.c.kind, events.c.sequence) if level == 0 else (landmarks.c.kind, landmarks.c.sequence)
    query = query.where(kind.in_(kinds)).order_by(sequence)
    rows = connection.execute(query.execution_options(yield_per=ROWS_AT_ONCE))
    return (Sketch(place, kind, _number(kind, value)) for place, kind, value in rows)


def _measurements(job_number: int, after: int, to: int) -> Select[Any]:
    fields = [(events.c.kind == kind, events.c.payload[name].as_string()) for kind, name in VALUES.items()]
    return _valid(select(events.c.sequence, events.c.kind, case(*fields, else_=None)), job_number, after, to)


def _landmarks_of(job_number: int, level: int, after: int, to: int) -> Select[Any]:
    query = select(landmarks.c.sequence, landmarks.c.kind, landmarks.c.value)
    query = query.where(landmarks.c.job_number == job_number, landmarks.c.level == level)
    return query.where(landmarks.c.sequence > after, landmarks.c.sequence <= to)


def _number(kind: str, value: Any) -> float | None:
    if kind not in VALUES:
        return None
    return math.nan if value is None else number(value)


def _valid(query: Select[Any], job_number: int, after: int, to: int) -> Select[Any]:
    """Of the job's events those that no resume has made void."""
    query = query.where(events.c.job_number == job_number, events.c.sequence > after, events.c.sequence <= to)
    return query.where(events.c.superseded_by.is_(None))


def _block(size: int) -> Callable[[Sketch], int]:
    return lambda sketch: (sketch.sequence - 1) // size


def _landmarks(block: Iterable[Sketch]) -> Iterator[Sketch]:
    by_kind: dict[str, list[Sketch]] = {}
    for sketch in block:
        by_kind.setdefault(sketch.kind, []).append(sketch)
    for found in by_kind.values():
        yield from {*outstanding(found), found[-1]}


def _row(sketch: Sketch) -> dict[str, Any]:
    finite = sketch.value is not None and math.isfinite(sketch.value)
    return {"sequence": sketch.sequence, "kind": sketch.kind, "value": sketch.value if finite else None}


def _forget(connection: Connection, job_number: int, level: int, after: int) -> None:
    void = (landmarks.c.job_number == job_number) & (landmarks.c.level == level) & (landmarks.c.sequence > after)
    connection.execute(delete(landmarks).where(void))

"""The jobs of a listing, in its order. Runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Float, Select, case, cast, func, or_, select

from batchyard.control.listing import Listing
from batchyard.control.records import Job
from batchyard.control.states import State
from batchyard.control.store import jobs as rows
from batchyard.control.store.schema import jobs

_STATE = case({state.value: place for place, state in enumerate(State)}, value=jobs.c.state)
_DONE = cast(jobs.c.progress["step"].as_integer(), Float) / func.nullif(jobs.c.progress["steps"].as_integer(), 0)
VALUES: dict[str, ColumnElement[Any]] = {
    "created": jobs.c.number,
    "name": jobs.c.id,
    "owner": func.nullif(jobs.c.user, ""),
    "state": _STATE,
    "progress": _DONE,
    "loss": jobs.c.progress["loss"].as_float(),
    "accuracy": jobs.c.progress["accuracy"].as_float(),
    "samples_per_second": case(
        (jobs.c.end_time.is_(None), jobs.c.progress["samples_per_second"].as_float()), else_=None
    ),
}
"""By Listing.order: what jobs are sorted by; those that have no such value come last."""


def page(connection: Connection, listing: Listing, size: int, after: int | None) -> list[Job]:
    """Up to `size` jobs after `after`, which is what `place` gave for the last page."""
    value = VALUES[listing.order]
    sorted_by = [value.is_(None), value if listing.rising else value.desc(), jobs.c.number.desc()]
    query = _found(select(jobs), listing.search).order_by(*sorted_by).limit(size)
    if listing.states:
        query = query.where(jobs.c.state.in_(sorted(listing.states)))
    if after is not None:
        query = (
            query.where(value > after if listing.rising else value < after) if listing.steady else query.offset(after)
        )
    return [rows.job_of(row) for row in connection.execute(query)]


def counts(connection: Connection, search: str) -> dict[State, int]:
    """How many jobs a search finds in each state; states without any are left out."""
    query = _found(select(jobs.c.state, func.count()), search).group_by(jobs.c.state)
    return {State(state): count for state, count in connection.execute(query)}


def _found(query: Select[Any], search: str) -> Select[Any]:
    for word in search.split():
        columns = (jobs.c.id, jobs.c.user, jobs.c.state, jobs.c.tags, jobs.c.note)
        query = query.where(or_(*(column.icontains(word, autoescape=True) for column in columns)))
    return query


def place(listing: Listing, found: Sequence[Job], after: int | None) -> int:
    """What marks the end of a page: a job where the order is steady, else how many came before."""
    return found[-1].number if listing.steady else (after or 0) + len(found)

"""Landmarks: what stands out of a long history is kept beside it, and is what the history itself would say."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, text

from batchyard.cluster.executor import Capacity
from batchyard.control import lifecycle
from batchyard.control.clock import SystemClock
from batchyard.control.jobs import Jobs
from batchyard.control.ledger import Ledger, Unit
from batchyard.control.notices import Notices
from batchyard.control.records import Job
from batchyard.control.store import jobs as rows
from batchyard.control.store import landmarks
from batchyard.control.store.database import Database
from batchyard.control.store.schema import landmarks as table
from batchyard.control.thinning import kept
from batchyard.training.events import Evaluation, Event, LogLine, Resumed, StepMetrics

MOST = 20
SPEC = {"name": "long", "model": {"architecture": "mlp"}, "data": {"dataset": "mnist"}, "steps": 100_000}


class Yard:
    """A database with one job that reports."""

    def __init__(self, where: Path | str) -> None:
        self.database = Database.open(where)
        self.ledger = Ledger(self.database, Notices(), SystemClock())
        self.jobs = Jobs(self.ledger, lambda: Capacity(workers=1, gpus=0))

    async def begin(self) -> str:
        job = await self.jobs.create(SPEC)
        await self.ledger.write(lambda unit: unit.save(job, lifecycle.begin(job, unit.now)))
        return job.id

    async def report(self, job_id: str, told: Sequence[Event]) -> None:
        def work(unit: Unit) -> None:
            job = rows.find(unit.connection, job_id)
            assert job is not None
            unit.save(job, lifecycle.report(job, told, unit.now), told)

        await self.ledger.write(work)

    async def stored(self, job_id: str) -> list[tuple[int, int, str, float | None]]:
        query = select(table.c.level, table.c.sequence, table.c.kind, table.c.value)
        query = query.order_by(*query.selected_columns)
        return [tuple(row) for row in await self.database.read(lambda connection: connection.execute(query).all())]


@pytest.fixture
def yard(tmp_path: Path, database_url: str | None) -> Iterator[Yard]:
    opened = Yard(database_url or tmp_path / "batchyard.db")
    yield opened
    opened.database.close()


def points(first: int, last: int, noise: random.Random) -> list[Event]:
    told: list[Event] = []
    for step in range(first, last + 1):
        told.append(
            StepMetrics(step=step, steps=100_000, loss=noise.random(), accuracy=0.5, learning_rate=0.1,
                        samples_per_second=1.0, step_seconds=1.0)
        )  # fmt: skip
        if step % 50 == 0:
            told.append(Evaluation(step=step, loss=noise.random(), accuracy=noise.random(), samples=10))
        if step % 70 == 0:
            told.append(LogLine(level="INFO", text=f"step {step}"))
    return told


async def thinned(yard: Yard, job_id: str) -> list[Event]:
    page = await yard.jobs.thinned_history(job_id, most=MOST)
    return [stored.event for stored in page.events]


def losses(told: Sequence[Event]) -> list[float]:
    return [one.loss for one in told if isinstance(one, StepMetrics)]


async def test_the_ends_the_extremes_and_the_newest_log_lines_of_a_long_history_stay(yard: Yard) -> None:
    told = points(1, 6_000, random.Random(0))
    job_id = await yard.begin()
    for start in range(0, len(told), 97):
        await yard.report(job_id, told[start : start + 97])

    seen = await thinned(yard, job_id)

    assert len(losses(seen)) <= MOST
    assert {min(losses(told)), max(losses(told)), losses(told)[0], losses(told)[-1]} <= set(losses(seen))
    scores = [one.accuracy for one in seen if isinstance(one, Evaluation)]
    all_scores = [one.accuracy for one in told if isinstance(one, Evaluation)]
    assert {min(all_scores), max(all_scores), all_scores[-1]} <= set(scores)
    assert [one.text for one in seen if isinstance(one, LogLine)] == [f"step {s}" for s in range(70, 6_001, 70)][-MOST:]


async def test_a_loss_that_is_no_number_stands_out_of_a_long_history(yard: Yard) -> None:
    told = points(1, 3_000, random.Random(1))
    diverged = [StepMetrics(step=3_001, steps=100_000, loss=math.nan, accuracy=0.1, learning_rate=0.1,
                            samples_per_second=1.0, step_seconds=1.0)]  # fmt: skip
    job_id = await yard.begin()
    for part in (told, diverged, points(3_002, 6_000, random.Random(2))):
        await yard.report(job_id, part)

    assert sum(math.isnan(loss) for loss in losses(await thinned(yard, job_id))) == 1


async def test_landmarks_are_the_same_however_the_events_came(yard: Yard) -> None:
    told = points(1, 1_000, random.Random(3))
    job_id = await yard.begin()
    noise = random.Random(4)
    while told:
        count = noise.randint(1, 60)
        await yard.report(job_id, told[:count])
        told = told[count:]
    piecemeal = await yard.stored(job_id)

    await yard.database.write(lambda connection: _anew(connection, job_id))

    assert await yard.stored(job_id) == piecemeal
    assert {level for level, *_ in piecemeal} == {1, 2}


def _anew(connection: Connection, job_id: str) -> None:
    job = rows.find(connection, job_id)
    assert job is not None
    landmarks.extend(connection, job.number, 0, job.last_event, anew=True)


async def test_what_a_resume_makes_void_is_no_landmark_any_more(yard: Yard) -> None:
    job_id = await yard.begin()
    spike = StepMetrics(step=2_500, steps=100_000, loss=99.0, accuracy=0.5, learning_rate=0.1,
                        samples_per_second=1.0, step_seconds=1.0)  # fmt: skip
    await yard.report(job_id, [*points(1, 2_499, random.Random(5)), spike, *points(2_501, 3_000, random.Random(6))])
    assert max(losses(await thinned(yard, job_id))) == 99.0

    await yard.report(job_id, [Resumed(step=2_400, uri="")])
    await yard.report(job_id, points(2_401, 4_000, random.Random(7)))

    seen = await thinned(yard, job_id)
    assert max(losses(seen)) < 1.0
    steps = [one.step for one in seen if isinstance(one, StepMetrics)]
    assert steps == sorted(set(steps))
    assert 99.0 not in [value for *_, value in await yard.stored(job_id)]


async def test_a_history_from_before_there_were_landmarks_gets_them(tmp_path: Path) -> None:
    yard = Yard(tmp_path / "batchyard.db")
    job_id = await yard.begin()
    await yard.report(job_id, points(1, 1_000, random.Random(8)))
    before = await yard.stored(job_id)
    await yard.database.write(_as_it_was)
    yard.database.close()

    yard = Yard(tmp_path / "batchyard.db")

    assert await yard.stored(job_id) == before
    yard.database.close()


def _as_it_was(connection: Connection) -> None:
    """Without what this migration and later ones have added."""
    for column in ("tags", "note"):
        connection.execute(text(f"ALTER TABLE jobs DROP COLUMN {column}"))
    connection.execute(text("DROP TABLE landmarks"))
    connection.execute(text("DROP INDEX ix_events_told"))
    connection.execute(text("UPDATE alembic_version SET version_num = '0006'"))


async def test_of_a_long_history_a_small_part_is_read(yard: Yard) -> None:
    job_id = await yard.begin()
    told = points(1, 20_000, random.Random(9))
    await yard.report(job_id, told)

    def read(connection: Connection) -> int:
        job = rows.find(connection, job_id)
        assert isinstance(job, Job)
        found = list(landmarks.sketches(connection, job, 0, (), MOST))
        assert kept(iter(found), MOST)
        return len(found)

    assert await yard.database.read(read) < len(told) / 10

"""The database: migrations, pragmas, what PostgreSQL would say, and the fence against stale writes."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import CheckConstraint, Connection, inspect, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateTable

from batchyard.cluster.executor import Batch, Capacity
from batchyard.control import lifecycle
from batchyard.control.attempts import Attempts
from batchyard.control.clock import ManualClock
from batchyard.control.jobs import Jobs
from batchyard.control.ledger import JobChange, Ledger, Unit
from batchyard.control.notices import Notices
from batchyard.control.records import Failure, StateChange
from batchyard.control.states import State
from batchyard.control.store import migrations, payload
from batchyard.control.store.database import Database
from batchyard.control.store.jobs import StaleWriteError
from batchyard.control.store.migrations import SchemaError
from batchyard.control.store.schema import metadata
from batchyard.training.events import Ended
from tests.control.harness import a_step, on_sqlite

MIGRATIONS = Path(migrations.__path__[0]) / "versions"
SPEC = {"name": "tiny", "model": {"architecture": "mlp"}, "data": {"dataset": "digits"}, "steps": 100}


@pytest.fixture
async def database(tmp_path: Path, database_url: str | None) -> AsyncIterator[Database]:
    opened = Database.open(database_url or tmp_path / "batchyard.db")
    yield opened
    opened.close()


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database, Notices(), ManualClock())


@pytest.fixture
def attempts(ledger: Ledger) -> Attempts:
    return Attempts(ledger, artifacts="file:///artifacts", checkpoints="file:///checkpoints", data_folders=("/data",))


async def a_job(ledger: Ledger) -> str:
    return (await Jobs(ledger, lambda: Capacity(workers=1, gpus=0)).create(SPEC)).id


async def test_an_empty_file_becomes_just_what_the_schema_says(database: Database) -> None:
    def differences(connection: Connection) -> object:
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)

    assert await database.read(differences) == []


@on_sqlite
async def test_check_constraints_are_migrated_too(database: Database) -> None:
    found = await database.read(lambda connection: inspect(connection).get_check_constraints("jobs"))
    declared = [str(c.sqltext) for c in metadata.tables["jobs"].constraints if isinstance(c, CheckConstraint)]
    assert [constraint["sqltext"] for constraint in found] == declared


async def test_opening_twice_changes_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        database = Database.open(tmp_path / "batchyard.db")
        found = await database.read(lambda c: c.execute(text("SELECT version_num FROM alembic_version")).scalar())
        assert found == max(file.name[:4] for file in MIGRATIONS.glob("0*.py"))
        database.close()


async def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "batchyard.db")
    await database.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    database.close()
    with pytest.raises(SchemaError, match=r"at schema 9999; this version knows 0001.*newer version"):
        Database.open(tmp_path / "batchyard.db")


def test_a_file_that_is_no_database_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "batchyard.db").write_text("not a database, but long enough to have a header of its own")
    with pytest.raises(SchemaError, match=r"batchyard\.db cannot be used: file is not a database: put a back-up"):
        Database.open(tmp_path / "batchyard.db")


@on_sqlite
async def test_commits_are_durable_and_references_are_kept(database: Database) -> None:
    def pragma(name: str) -> object:
        return database.read(lambda c: c.execute(text(f"PRAGMA {name}")).scalar())

    names = ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
    assert [await pragma(name) for name in names] == ["wal", 1, 2, 5000]  # type: ignore[misc]
    with pytest.raises(IntegrityError):
        await database.write(lambda c: c.execute(text("INSERT INTO aliases VALUES ('nobody', 'production', 1)")))


async def test_a_transaction_that_raises_leaves_nothing(database: Database) -> None:
    def half(connection: Connection) -> None:
        connection.execute(text("INSERT INTO models VALUES ('digits', 1.0, 1, '{}')"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.write(half)
    assert await database.read(lambda c: c.execute(text("SELECT count(*) FROM models")).scalar()) == 0


async def test_a_read_sees_one_state_of_the_database_while_writes_go_on(database: Database) -> None:
    counted, wrote = threading.Event(), threading.Event()

    def count(connection: Connection) -> int:
        return int(connection.execute(text("SELECT count(*) FROM models")).scalar_one())

    def twice(connection: Connection) -> tuple[int, int]:
        first = count(connection)
        counted.set()
        assert wrote.wait(10)
        return first, count(connection)

    reading = asyncio.create_task(database.read(twice))
    await asyncio.to_thread(counted.wait, 10)
    await database.write(lambda c: c.execute(text("INSERT INTO models VALUES ('digits', 1.0, 1, '{}')")))
    wrote.set()
    assert await reading == (0, 0)
    assert await database.read(count) == 1


def test_every_table_can_be_made_on_postgresql() -> None:
    made = [str(CreateTable(table).compile(dialect=postgresql.dialect())) for table in metadata.sorted_tables]  # type: ignore[no-untyped-call]
    assert "number BIGSERIAL NOT NULL" in made[0]
    assert len(made) == len(metadata.tables)


@pytest.mark.parametrize("loss", [1.5, math.inf, -math.inf])
def test_an_event_survives_storing(loss: float) -> None:
    event = a_step(1, loss=loss)
    assert payload.load(payload.dump(event)) == event


def test_a_change_of_state_survives_storing() -> None:
    failure = Failure(failure_class="user", cause="nan", next_step="NaN")
    event = StateChange(state=State.FAILED, failure=failure, model_version=None)
    assert payload.load(payload.dump(event)) == event


async def test_a_stale_attempt_can_write_nothing(ledger: Ledger, attempts: Attempts) -> None:
    begun = await attempts.begin(await a_job(ledger))
    assert begun is not None
    stale = dataclasses.replace(
        begun, attempt=dataclasses.replace(begun.attempt, id=dataclasses.replace(begun.id, number=0))
    )
    with pytest.raises(StaleWriteError):
        await attempts.record(stale, Batch(cursor=1, events=(a_step(1),)), None)


async def test_the_same_batch_is_stored_once(ledger: Ledger, attempts: Attempts) -> None:
    begun = await attempts.begin(await a_job(ledger))
    assert begun is not None
    after = await attempts.record(begun, Batch(cursor=1, events=(a_step(1),)), None)
    with pytest.raises(StaleWriteError):
        await attempts.record(begun, Batch(cursor=1, events=(a_step(1),)), None)
    assert after.job.last_event == 4  # QUEUED, STARTING, RUNNING and the step


async def test_nothing_is_stored_after_the_end(ledger: Ledger, attempts: Attempts) -> None:
    begun = await attempts.begin(await a_job(ledger))
    assert begun is not None
    ended = await attempts.record(begun, Batch(cursor=1, events=(Ended(outcome="succeeded"),)), None)
    with pytest.raises(StaleWriteError):
        await attempts.record(ended, Batch(cursor=2, events=(a_step(1),)), None)


async def test_a_job_begins_once(ledger: Ledger, attempts: Attempts) -> None:
    job = await a_job(ledger)
    begun = [await attempts.begin(job), await attempts.begin(job)]
    assert [one is None for one in begun] == [False, True]


async def test_a_listener_that_fails_keeps_nobody_from_hearing(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(change: JobChange) -> None:
        raise ZeroDivisionError

    heard: list[str] = []
    ledger.listen(broken)
    ledger.listen(lambda change: heard.append(change.job.id))
    assert [await a_job(ledger)] == heard
    assert "a listener failed" in caplog.text


async def test_a_write_whose_caller_is_cancelled_is_stored_and_told(ledger: Ledger) -> None:
    heard: list[str] = []
    ledger.listen(lambda change: heard.append(change.job.id))
    writing, go_on = threading.Event(), threading.Event()
    job = await Jobs(ledger, lambda: Capacity(workers=1, gpus=0)).get(await a_job(ledger))

    def write(unit: Unit) -> None:
        writing.set()
        assert go_on.wait(10)
        unit.save(job, lifecycle.cancel(job, unit.now))

    caller = asyncio.create_task(ledger.write(write))
    await asyncio.to_thread(writing.wait, 10)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go_on.set()
    await ledger.close()
    assert heard == [job.id, job.id]

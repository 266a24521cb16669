"""PostgreSQL as the database: what differs from SQLite. That the rest does not, the tests of the store say of both."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from batchyard.control.store.database import Database, DatabaseAwayError, DatabaseUnreachableError
from batchyard.control.store.postgresql import DatabaseUrlError, check_url
from tests.control.postgres import Postgres

INSERT = "INSERT INTO models VALUES (:name, 1.0, 1, '{}')"


@pytest.fixture
def database(postgres: Postgres) -> Iterator[Database]:
    opened = Database.open(postgres.emptied())
    yield opened
    opened.close()


async def models(database: Database) -> list[str]:
    def work(connection: Connection) -> list[str]:
        return list(connection.execute(text("SELECT name FROM models ORDER BY name")).scalars())

    return await database.read(work)


async def add(database: Database, name: str) -> None:
    await database.write(lambda connection: connection.execute(text(INSERT), {"name": name}))


async def test_two_processes_that_find_an_empty_database_make_its_tables_once(postgres: Postgres) -> None:
    url = postgres.empty()
    opened = await asyncio.gather(*(asyncio.to_thread(Database.open, url) for _ in range(2)))
    for database in opened:
        assert await models(database) == []
        database.close()


async def test_two_writers_of_different_processes_wait_for_each_other(database: Database, postgres: Postgres) -> None:
    name = await database.read(lambda connection: connection.execute(text("SELECT current_database()")).scalar_one())
    other = Database.open(postgres.url(name))
    inside, go_on = threading.Event(), threading.Event()
    seen: list[int] = []

    def slowly(connection: Connection) -> None:
        connection.execute(text(INSERT), {"name": "first"})
        inside.set()
        assert go_on.wait(10)

    def after(connection: Connection) -> None:
        seen.append(connection.execute(text("SELECT count(*) FROM models")).scalar_one())

    first = asyncio.create_task(database.write(slowly))
    await asyncio.to_thread(inside.wait, 10)
    second = asyncio.create_task(other.write(after))
    assert await models(other) == []  # who reads waits for nobody
    go_on.set()
    await asyncio.gather(first, second)
    assert seen == [1]
    other.close()


async def test_a_server_that_was_started_anew_is_found_again_with_all_that_was_stored(
    database: Database, postgres: Postgres
) -> None:
    await add(database, "before")
    await asyncio.to_thread(postgres.restart)
    await add(database, "after")
    assert await models(database) == ["after", "before"]


async def test_a_transaction_that_the_server_breaks_off_says_so(database: Database, postgres: Postgres) -> None:
    def broken(connection: Connection) -> None:
        connection.execute(text(INSERT), {"name": "half"})
        postgres.restart()
        connection.execute(text("SELECT 1"))

    with pytest.raises(DatabaseAwayError, match="nothing was stored"):
        await database.write(broken)
    assert await models(database) == []


@pytest.mark.parametrize("arrived", [True, False], ids=["arrived", "did-not"])
async def test_after_a_commit_without_an_answer_the_server_is_asked_what_became_of_it(
    database: Database, arrived: bool
) -> None:
    def break_off(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        if arrived:
            driver.commit()
        driver.close()

    def work(connection: Connection) -> str:
        connection.execute(text(INSERT), {"name": "digits"})
        event.listen(connection, "commit", break_off)
        return "stored"

    if arrived:
        assert await database.write(work) == "stored"
    else:
        with pytest.raises(DatabaseAwayError, match="nothing was stored"):
            await database.write(work)
    assert await models(database) == (["digits"] if arrived else [])


async def test_a_text_with_nul_is_stored_without(database: Database) -> None:
    await add(database, "nul\0")
    assert await models(database) == ["nul\N{REPLACEMENT CHARACTER}"]


def test_a_server_that_does_not_answer_is_named_with_its_own_words(tmp_path: Path) -> None:
    url = f"postgresql:///jobs?host={tmp_path}"
    with pytest.raises(DatabaseUnreachableError, match=rf"{re.escape(url)} cannot be opened: .*fail"):
        Database.open(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://localhost/jobs", r"'mysql://localhost/jobs' given; expected postgresql://\[USER@\]HOST"),
        ("postgresql://localhost", r"expected postgresql://\[USER@\]HOST\[:PORT\]/NAME"),
        ("postgresql://me:secret@localhost/jobs", r"postgresql://me:...@localhost given, with a password.*PGPASSFILE"),
        ("mysql://me:secret@localhost/jobs", r"'mysql://me:...@localhost/jobs' given"),
    ],
    ids=["another-database", "no-name", "a-password", "another-database-with-a-password"],
)
def test_a_url_that_cannot_be_is_refused(url: str, said: str) -> None:
    with pytest.raises(DatabaseUrlError, match=said) as refused:
        check_url(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["postgresql://db.example:5433/jobs", "postgres://me@db/jobs", "postgresql:///jobs?host=/run"]
)
def test_these_urls_are_fine(url: str) -> None:
    check_url(url)

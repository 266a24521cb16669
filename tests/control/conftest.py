from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from batchyard.cluster.fake_executor import FakeExecutor
from tests.control.harness import Service, control_plane
from tests.control.postgres import Postgres, a_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server of this session's own."""
    with a_server() as server, server.serving():
        server.make_tables()
        yield server


@pytest.fixture
def cluster() -> FakeExecutor:
    """Two workers; its attempts wait to be told what to report."""
    return FakeExecutor(workers=2)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """An empty database, as a setting: None for an SQLite file in the data folder."""
    if request.param == "sqlite":
        return None
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.emptied()


@pytest.fixture
async def service(tmp_path: Path, cluster: FakeExecutor, database_url: str | None) -> AsyncIterator[Service]:
    async with control_plane(tmp_path / "data", cluster, database_url=database_url) as running:
        yield running

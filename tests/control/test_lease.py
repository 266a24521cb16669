"""One control plane writes at a time: the lease in the database, its fence, and what clocks that jump do to it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from batchyard.cluster.fake_executor import FakeExecutor
from batchyard.control import lease as lease_module
from batchyard.control.clock import ManualClock
from batchyard.control.data_folder import FolderInUseError
from batchyard.control.holder import Holder
from batchyard.control.lease import LEASE_SECONDS, Lease, LeaseLostError
from batchyard.control.store import leases
from batchyard.control.store.database import Database
from tests.control.harness import PATIENCE, Service, a_step, control_plane, refused, until

US = Holder.this_process(1_700_000_000.0)
ELSEWHERE = dataclasses.replace(US, host="elsewhere", process="another-boot/1", pid=77)
GONE = dataclasses.replace(US, pid=US.pid + 1, process=f"{US.boot}/0")


class Monotonic:
    """A clock that goes on when a test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
async def database(tmp_path: Path, database_url: str | None) -> AsyncIterator[Database]:
    opened = Database.open(database_url or tmp_path / "batchyard.db")
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.005)


async def held_by(database: Database, holder: Holder, place: str = "here") -> int:
    return await database.write(lambda connection: leases.take(connection, holder, place))


@asynccontextmanager
async def holding(database: Database, *, standby: bool = False, clock: Monotonic | None = None) -> AsyncIterator[Lease]:
    lease = Lease(database, US, "here", clock or Monotonic())
    try:
        await lease.acquire(standby=standby)
        yield lease
    finally:
        await lease.stop()


async def epoch(database: Database) -> int:
    row = await database.read(leases.find)
    assert row is not None
    return row.epoch


async def test_each_holder_has_an_epoch_of_its_own_and_gives_the_lease_up(database: Database) -> None:
    for number in (1, 2, 3):
        async with holding(database):
            assert await epoch(database) == number
        row = await database.read(leases.find)
        assert row is not None
        assert row.released


async def test_a_holder_shows_that_it_lives(database: Database) -> None:
    async with holding(database), asyncio.timeout(PATIENCE):
        renewals = 0
        while renewals < 3:
            row = await database.read(leases.find)
            assert row is not None
            renewals = row.renewals


async def test_a_process_of_this_machine_that_is_gone_holds_nothing(database: Database) -> None:
    await held_by(database, GONE)
    async with holding(database):
        assert await epoch(database) == 2


async def test_a_machine_that_was_started_anew_holds_nothing(database: Database) -> None:
    await held_by(database, dataclasses.replace(US, process="the-boot-before/1"))
    async with holding(database):
        assert await epoch(database) == 2


async def test_a_copy_of_a_database_that_is_in_use_is_not_held(database: Database) -> None:
    init = Holder(host=US.host, pid=1, process=US.process, since=0)
    await held_by(database, init, place="where it was copied from")
    async with holding(database):
        assert await epoch(database) == 2


async def test_a_holder_on_another_machine_that_renews_is_left_alone_and_named(database: Database) -> None:
    await held_by(database, ELSEWHERE)
    refusal = asyncio.create_task(Lease(database, US, "here", Monotonic()).acquire(standby=False))
    while not refusal.done():
        await database.write(lambda connection: leases.renew(connection, 1))
    with pytest.raises(FolderInUseError, match=r"process 77 on elsewhere, since 2023-11-14 22:13:20 UTC.*--standby"):
        await refusal
    assert await epoch(database) == 1


async def test_a_holder_on_another_machine_that_stands_still_is_replaced_in_time(database: Database) -> None:
    await held_by(database, ELSEWHERE)
    clock = Monotonic()
    waiting = asyncio.create_task(Lease(database, US, "here", clock).acquire(standby=True))
    clock.seconds = LEASE_SECONDS - 0.1
    await asyncio.wait([waiting], timeout=0.1)
    assert not waiting.done()
    clock.seconds = 2 * LEASE_SECONDS
    async with asyncio.timeout(PATIENCE):
        await waiting
    assert await epoch(database) == 2


async def test_who_was_replaced_cannot_write_and_hears_of_it(database: Database) -> None:
    async with holding(database) as lease:
        await held_by(database, ELSEWHERE)
        with pytest.raises(LeaseLostError, match="process 77 on elsewhere"):
            await database.write(lease.check)
        async with asyncio.timeout(PATIENCE):
            await lease.lost.wait()
    row = await database.read(leases.find)
    assert row is not None
    assert not row.released, "a lease that is another's was given up"


async def replace(service: Service, folder: Path) -> None:
    """Another control plane takes the database over, behind the back of the one that has it."""
    other = Database.open(folder / "batchyard.db")
    await held_by(other, ELSEWHERE)
    other.close()


async def test_a_control_plane_that_was_replaced_stores_nothing_and_leaves_what_runs_alone(
    tmp_path: Path, cluster: FakeExecutor
) -> None:
    async with control_plane(tmp_path, cluster) as service:
        job = await service.submit()
        await service.until_started(job)
        await replace(service, tmp_path)
        cluster.report(job, a_step(1))
        async with refused() as refusals:
            await service.submit()
        await until(service.plane.lost.is_set)
        assert (refusals[0].code, refusals[0].reason) == (grpc.StatusCode.UNAVAILABLE, "LEASE_LOST")
        assert len(await service.history(job)) == 2, "QUEUED and STARTING, and nothing of what came after"
    assert (cluster.cancelled, cluster.paused) == ([], [])
    assert cluster.runs(job)


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0], ids=["forward", "back"])
async def test_a_clock_that_jumps_neither_loses_the_lease_nor_a_job(
    tmp_path: Path, cluster: FakeExecutor, jump: float
) -> None:
    clock = ManualClock()
    async with control_plane(tmp_path, cluster, clock=clock) as service:
        job = await service.submit()
        await service.until_started(job)
        clock.advance(jump)
        cluster.report(job, a_step(1))
        await service.until_state(job, "RUNNING")
        with pytest.raises(FolderInUseError, match="in use by another control plane"):
            async with control_plane(tmp_path, cluster):
                pass
        second = await service.submit()
        await service.until_started(second)
        assert not service.plane.lost.is_set()

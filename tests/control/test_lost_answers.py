"""A commit that is done and whose answer is lost, as with a connection: the service finds out what is stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from batchyard.cluster.executor import AttemptId, UnknownAttemptError
from batchyard.cluster.fake_executor import FakeExecutor
from batchyard.control import follower, scheduler
from batchyard.failpoints import armed
from batchyard.training.events import Ended
from tests.control.harness import Service, a_step, control_plane, kinds, until

SUCCESS = Ended(outcome="succeeded")
STEPS = ["step_metrics", "step_metrics", "SUCCEEDED"]
Lose = Callable[[str], None]


@pytest.fixture
def lose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lose:
    """Has the next commit at a failpoint raise after it is done."""
    monkeypatch.setattr(scheduler, "CAPACITY_SECONDS", 0.05)
    monkeypatch.setattr(follower, "RETRY_SECONDS", 0.05)

    def lose(failpoint: str) -> None:
        points = armed.read(f"{failpoint}=error", str(tmp_path / "state"))
        monkeypatch.setattr("batchyard.failpoints._armed", points)

    return lose


def knows(cluster: FakeExecutor, job: str) -> bool:
    """Whether the first attempt of the job is not released."""
    try:
        cluster.poll(AttemptId(job=job, number=1), 0)
    except UnknownAttemptError:
        return False
    return True


async def finish(service: Service, job: str) -> None:
    """The rest of a job of two steps, of which the first is reported."""
    service.cluster.report(job, a_step(2), SUCCESS)
    await service.until_state(job, "SUCCEEDED")
    assert kinds(await service.history(job))[-3:] == STEPS


async def test_an_attempt_that_was_begun_is_followed_though_admission_broke_off(tmp_path: Path, lose: Lose) -> None:
    async with control_plane(tmp_path / "data", FakeExecutor()) as service:
        lose("begin.after_commit")
        job = await service.submit()
        assert (await service.until_started(job)).id.number == 1
        service.cluster.report(job, a_step(1))
        await finish(service, job)


async def test_one_that_runs_already_is_not_followed_twice(tmp_path: Path, lose: Lose) -> None:
    async with control_plane(tmp_path / "data", FakeExecutor()) as service:
        first = await service.submit()
        await service.until_started(first)
        service.cluster.report(first, a_step(1))
        await service.until_state(first, "RUNNING")
        lose("begin.after_commit")
        second = await service.submit()
        await service.until_started(second)
        service.cluster.report(second, a_step(1))
        for job in (first, second):
            await finish(service, job)
            assert [attempt.id.job for attempt in service.cluster.started].count(job) == 1


async def test_events_that_were_stored_without_an_answer_are_stored_once(tmp_path: Path, lose: Lose) -> None:
    async with control_plane(tmp_path / "data", FakeExecutor()) as service:
        job = await service.submit()
        await service.until_started(job)
        lose("record.after_commit")
        service.cluster.report(job, a_step(1))
        await service.until_state(job, "RUNNING")
        await finish(service, job)


async def test_what_was_stored_without_an_answer_is_told_at_once(tmp_path: Path, lose: Lose) -> None:
    async with control_plane(tmp_path / "data", FakeExecutor()) as service:
        job = await service.submit()
        await service.until_started(job)
        lose("ledger.before_tell")
        service.cluster.report(job, a_step(1))
        await service.until_state(job, "RUNNING")  # which a watcher hears, though nothing more is reported
        await finish(service, job)


async def test_a_cancel_that_was_stored_without_an_answer_is_carried_out(tmp_path: Path, lose: Lose) -> None:
    async with control_plane(tmp_path / "data", FakeExecutor()) as service:
        job = await service.submit()
        await service.until_started(job)
        lose("ledger.before_tell")
        with pytest.raises(grpc.aio.AioRpcError):
            await service.cancel(job)
        await service.until_state(job, "CANCELLED")


async def test_an_end_that_was_stored_without_an_answer_is_released(tmp_path: Path, lose: Lose) -> None:
    async with control_plane(tmp_path / "data", FakeExecutor()) as service:
        job = await service.submit()
        await service.until_started(job)
        service.cluster.report(job, a_step(1))
        await service.until_state(job, "RUNNING")
        lose("record.after_commit")
        await finish(service, job)
        await until(lambda: not knows(service.cluster, job))

"""Pause, resume, retries, and what they do to a job's history."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest

from batchyard.cluster.fake_executor import FakeExecutor
from batchyard.control import backoff
from batchyard.control.backoff import Backoff
from batchyard.training.events import Ended, Resumed
from batchyard.v1 import training_pb2
from tests.control.harness import (
    Service,
    a_checkpoint,
    a_step,
    control_plane,
    points,
    refused,
    state_name,
    until,
    until_points,
)

SUCCESS = Ended(outcome="succeeded")
LOST = Ended(outcome="failed", failure_class="infrastructure", cause="the worker was ended by SIGKILL", next_step="-")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.01)


async def test_a_running_job_is_paused_and_goes_on_from_its_checkpoint(service: Service) -> None:
    service.cluster.obedient = False
    job = await service.submit()
    first = await service.until_started(job)
    assert (first.resume_from, first.checkpoint_uri.rpartition("/")[2]) == (None, job)
    service.cluster.report(job, a_step(1))
    await service.until_state(job, "RUNNING")
    assert state_name((await service.pause(job)).state) == "PAUSING"
    assert state_name((await service.pause(job)).state) == "PAUSING"
    await until(lambda: bool(service.cluster.paused))
    service.cluster.report(job, a_step(2), a_checkpoint(2), Ended(outcome="paused"))
    paused = await service.until_state(job, "PAUSED")
    assert (paused.progress.step, paused.progress.checkpoint_step) == (2, 2)
    assert not service.cluster.runs(job)
    assert state_name((await service.resume(job)).state) == "QUEUED"
    second = await service.until_started(job, 2)
    assert (second.resume_from, second.checkpoint_uri) == ("file:///checkpoints/2", first.checkpoint_uri)
    service.cluster.report(job, Resumed(step=2, uri="file:///checkpoints/2"), a_step(3), SUCCESS)
    ended = await service.until_state(job, "SUCCEEDED")
    assert ended.attempt == 2
    assert await points(service, job) == [1, 2, 3]


async def test_a_waiting_job_is_paused_at_once_and_lets_others_go_first(service: Service) -> None:
    blocker = await service.submit(workers={"count": 2})
    await service.until_started(blocker)
    job, other = await service.submit(), await service.submit()
    assert state_name((await service.pause(job)).state) == "PAUSED"
    service.cluster.report(blocker, SUCCESS)
    await service.until_started(other)
    assert not service.cluster.runs(job)
    assert state_name((await service.resume(job)).state) == "QUEUED"
    await service.until_started(job)


async def test_a_paused_job_can_be_cancelled(service: Service) -> None:
    job = await service.submit()
    await service.until_started(job)
    await service.pause(job)
    await service.until_state(job, "PAUSED")
    assert state_name((await service.cancel(job)).state) == "CANCELLED"


async def test_a_pausing_job_can_be_cancelled(service: Service) -> None:
    service.cluster.obedient = False
    job = await service.submit()
    await service.until_started(job)
    await service.pause(job)
    await until(lambda: bool(service.cluster.paused))
    assert state_name((await service.cancel(job)).state) == "CANCELLING"
    await until(lambda: bool(service.cluster.cancelled))
    service.cluster.report(job, Ended(outcome="paused"))
    await service.until_state(job, "CANCELLED")


async def test_a_job_that_finished_before_its_pause_arrived_has_succeeded(service: Service) -> None:
    service.cluster.obedient = False
    job = await service.submit()
    await service.until_started(job)
    await service.pause(job)
    service.cluster.report(job, SUCCESS)
    await service.until_state(job, "SUCCEEDED")


async def test_what_cannot_be_paused_or_resumed_is_refused_with_the_reason(service: Service) -> None:
    service.cluster.obedient = False
    job = await service.submit()
    await service.until_started(job)
    assert state_name((await service.resume(job)).state) == "STARTING"
    await service.pause(job)
    await _refused(service.resume, job, "JOB_PAUSING", "wait until it is PAUSED")
    await service.cancel(job)
    await _refused(service.pause, job, "JOB_CANCELLING", "is being cancelled")
    await _refused(service.resume, job, "JOB_CANCELLING", "is being cancelled")
    service.cluster.report(job, Ended(outcome="cancelled"))
    await service.until_state(job, "CANCELLED")
    await _refused(service.pause, job, "JOB_ENDED", "has ended")
    await _refused(service.resume, job, "JOB_ENDED", "has ended")


async def _refused(ask: Callable[[str], Awaitable[object]], job: str, reason: str, words: str) -> None:
    async with refused() as found:
        await ask(job)
    assert (found[0].code, found[0].reason) == (grpc.StatusCode.FAILED_PRECONDITION, reason)
    assert words in found[0].message


async def test_a_pause_outlives_the_control_plane(tmp_path: Path, cluster: FakeExecutor) -> None:
    async with control_plane(tmp_path, cluster) as service:
        job = await service.submit()
        await service.until_started(job)
        cluster.report(job, a_step(1), a_checkpoint(1))
        await service.until_state(job, "RUNNING")
        await service.pause(job)
        await service.until_state(job, "PAUSED")
    async with control_plane(tmp_path, cluster) as service:
        assert state_name((await service.get(job)).state) == "PAUSED"
        await service.resume(job)
        assert (await service.until_started(job, 2)).resume_from == "file:///checkpoints/1"


async def test_a_lost_worker_costs_a_retry_and_the_history_is_that_of_an_undisturbed_job(service: Service) -> None:
    job = await service.submit(retries=2)
    await service.until_started(job)
    service.cluster.report(job, a_step(1), a_step(10), a_checkpoint(10), a_step(20), a_step(30), LOST)
    attempt = await service.until_started(job, 2)
    assert attempt.resume_from == "file:///checkpoints/10"
    service.cluster.report(job, Resumed(step=10, uri="file:///checkpoints/10"), a_step(20, loss=0.5))
    await until_points(service, job, [1, 10, 20])
    service.cluster.report(job, a_checkpoint(20), LOST)
    assert (await service.until_started(job, 3)).resume_from == "file:///checkpoints/20"
    service.cluster.report(job, Resumed(step=20, uri="file:///checkpoints/20"), a_step(30), LOST)
    failed = await service.until_state(job, "FAILED")
    assert failed.failure.cause == "the worker was ended by SIGKILL"
    assert await points(service, job) == [1, 10, 20, 30]
    said = [r.event.log_line.text for r in await service.history(job, kinds=[training_pb2.LOG_LINE])]
    assert [text.partition(":")[0] for text in said] == [
        "attempt 1 failed (infrastructure); it goes on from the checkpoint of step 10, retry 1 of 2",
        "attempt 2 failed (infrastructure); it goes on from the checkpoint of step 20, retry 2 of 2",
    ]


async def test_a_watch_that_was_there_all_along_is_told_what_to_drop(service: Service) -> None:
    job = await service.submit(retries=1)
    await service.until_started(job)
    service.cluster.report(job, a_step(1), a_checkpoint(1), a_step(2), a_step(3))
    seen: list[int] = []
    cursors: list[str] = []
    told = False
    async for response in service.watch(job):
        cursors.append(response.cursor)
        kind = response.event.WhichOneof("kind")
        if kind == "step_metrics":
            seen.append(response.event.step_metrics.step)
            if seen == [1, 2, 3] and not told:
                service.cluster.report(job, LOST)
                await service.until_started(job, 2)
                service.cluster.report(job, Resumed(step=1, uri="file:///checkpoints/1"), a_step(2), a_step(3), SUCCESS)
        elif kind == "resumed":
            told = True
            seen = [step for step in seen if step <= response.event.resumed.step]
    assert seen == [1, 2, 3] == await points(service, job)
    assert len(set(cursors)) == len(cursors)


async def test_a_cursor_in_what_was_made_void_goes_on_after_it(service: Service) -> None:
    job = await service.submit(retries=1)
    await service.until_started(job)
    service.cluster.report(job, a_step(1), a_checkpoint(1), a_step(2), a_step(3))
    await until_points(service, job, [1, 2, 3])
    at_two = next(r for r in await service.history(job) if r.event.step_metrics.step == 2)
    service.cluster.report(job, LOST)
    await service.until_started(job, 2)
    service.cluster.report(job, Resumed(step=1, uri="file:///checkpoints/1"), a_step(2), SUCCESS)
    await service.until_state(job, "SUCCEEDED")
    rest = [r.event for r in await service.history(job, cursor=at_two.cursor)]
    kinds = [event.WhichOneof("kind") for event in rest if not event.HasField("state_change")]
    assert kinds == ["log_line", "resumed", "step_metrics"]


def test_back_off_doubles_while_a_job_does_not_come_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 1.0)
    now = [100.0]
    waits = Backoff(lambda: now[0])
    for expected in (1, 2, 4, 8, 16, 32, 60, 60):
        waits.failed("job", 10)
        assert waits.seconds("job") == expected
    waits.failed("job", 20)
    assert waits.seconds("job") == 1
    now[0] += 5
    assert waits.seconds("job") == 0
    waits.failed("job", 20)
    assert waits.seconds("job") == 2
    waits.forget("job")
    assert waits.seconds("job") == 0

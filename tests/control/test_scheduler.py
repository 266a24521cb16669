"""How jobs run, on a cluster that does what it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from batchyard.cluster.executor import Attempt, Capacity
from batchyard.cluster.fake_executor import FakeExecutor
from batchyard.training.events import Ended, LogLine, PhaseChange
from batchyard.v1 import training_pb2
from tests.control.harness import (
    Service,
    a_step,
    control_plane,
    kinds,
    refused,
    state_name,
    until,
    until_points,
)

TWO = {"workers": {"count": 2}}
SUCCESS = Ended(outcome="succeeded")


async def state(service: Service, job: str) -> str:
    return state_name((await service.get(job)).state)


async def test_a_job_runs_from_queued_to_succeeded(service: Service) -> None:
    job = await service.submit()
    await service.until_started(job)
    await service.until_state(job, "STARTING")
    service.cluster.report(job, PhaseChange(phase="training"), a_step(1, time=1_700_000_001.5))
    await service.until_state(job, "RUNNING")
    service.cluster.report(job, a_step(50, time=1_700_000_011.3), SUCCESS)
    ended = await service.until_state(job, "SUCCEEDED")
    assert ended.attempt == 1
    assert ended.first_step_time.ToMilliseconds() == 1_700_000_001_500
    assert ended.create_time.ToNanoseconds() <= ended.start_time.ToNanoseconds() <= ended.end_time.ToNanoseconds()
    await until(lambda: not service.cluster.runs(job))


async def test_progress_tells_how_long_the_rest_will_take(service: Service) -> None:
    job = await service.submit()
    await service.until_started(job)
    service.cluster.report(job, a_step(1, time=1000.0))
    service.cluster.report(job, a_step(51, loss=0.25, time=1010.0), LogLine(level="INFO", text="here"))
    watch = service.watch(job, kinds=[training_pb2.LOG_LINE])
    await watch.read()
    watch.cancel()
    progress = (await service.get(job)).progress
    assert (progress.step, progress.steps, progress.loss) == (51, 100, 0.25)
    assert progress.remaining.ToSeconds() == 9  # 49 steps at 0.2 s, rounded down


async def test_progress_is_silent_about_what_it_does_not_know(service: Service) -> None:
    job = await service.submit()
    await service.until_started(job)
    service.cluster.report(job, PhaseChange(phase="loading"))
    progress = (await service.until_state(job, "RUNNING")).progress
    assert progress.phase == training_pb2.Progress.LOADING
    assert not progress.HasField("loss")
    assert not progress.HasField("remaining")


async def test_after_a_clock_was_set_back_the_time_that_is_left_is_unknown_and_not_nothing(service: Service) -> None:
    job = await service.submit()
    await service.until_started(job)
    service.cluster.report(job, a_step(1, time=5000.0), a_step(51, time=1400.0))
    await until_points(service, job, [1, 51])
    assert not (await service.get(job)).progress.HasField("remaining")


async def test_jobs_run_in_order_and_nobody_overtakes(service: Service) -> None:
    first = await service.submit()
    big = await service.submit(**TWO)
    last = await service.submit()
    await service.until_started(first)
    service.cluster.report(first, a_step(1))
    await service.until_state(first, "RUNNING")
    assert (await state(service, big), await state(service, last)) == ("QUEUED", "QUEUED")
    service.cluster.report(first, SUCCESS)
    await service.until_started(big)
    assert await state(service, last) == "QUEUED"
    service.cluster.report(big, SUCCESS)
    await service.until_started(last)
    assert [attempt.id.job for attempt in service.cluster.started] == [first, big, last]


async def test_a_waiting_job_of_higher_priority_starts_first(service: Service) -> None:
    first = await service.submit(**TWO, preemptible=False)
    low, usual, high, also_high = [await service.submit(**TWO, priority=priority) for priority in (-1, 0, 10, 10)]
    for job in (first, high, also_high, usual, low):
        await service.until_started(job)
        service.cluster.report(job, SUCCESS)
    assert [attempt.id.job for attempt in service.cluster.started] == [first, high, also_high, usual, low]


async def test_jobs_run_side_by_side_where_there_is_room(service: Service) -> None:
    one, other = await service.submit(), await service.submit()
    await service.until_started(one)
    await service.until_started(other)


async def test_a_job_that_the_cluster_has_become_too_small_for_says_so_and_blocks_nobody(service: Service) -> None:
    blocker = await service.submit(**TWO)
    await service.until_started(blocker)
    big, small = await service.submit(**TWO), await service.submit()
    service.cluster.has = Capacity(workers=1, gpus=0)
    service.cluster.report(blocker, SUCCESS)
    await service.until_started(small)
    lines = [r.event.log_line.text for r in await service.history(big, kinds=[training_pb2.LOG_LINE])]
    assert lines == [
        "waiting: the job needs 2 workers and 0 GPUs, the cluster now has 1 workers and 0 GPUs; "
        "enlarge it or cancel the job"
    ]
    assert await state(service, big) == "QUEUED"


async def test_a_queued_job_is_cancelled_at_once(service: Service) -> None:
    blocker = await service.submit(**TWO)
    await service.until_started(blocker)
    job = await service.submit()
    assert state_name((await service.cancel(job)).state) == "CANCELLED"
    service.cluster.report(blocker, SUCCESS)
    await service.until_state(blocker, "SUCCEEDED")
    assert [attempt.id.job for attempt in service.cluster.started] == [blocker]


async def test_a_running_job_is_cancelled_when_its_workers_have_stopped(service: Service) -> None:
    service.cluster.obedient = False
    job = await service.submit()
    await service.until_started(job)
    service.cluster.report(job, a_step(1))
    await service.until_state(job, "RUNNING")
    assert state_name((await service.cancel(job)).state) == "CANCELLING"
    await until(lambda: bool(service.cluster.cancelled))
    assert state_name((await service.cancel(job)).state) == "CANCELLING"
    service.cluster.report(job, Ended(outcome="cancelled"))
    ended = await service.until_state(job, "CANCELLED")
    assert not ended.HasField("failure")
    assert state_name((await service.cancel(job)).state) == "CANCELLED"
    assert len(service.cluster.cancelled) == 1


async def test_a_cancel_in_the_same_moment_as_the_start_is_not_lost(service: Service) -> None:
    for _ in range(10):
        job = await service.submit()
        await service.cancel(job)
        await service.until_state(job, "CANCELLED")


async def test_a_job_that_finished_before_its_cancel_arrived_has_succeeded(service: Service) -> None:
    service.cluster.obedient = False
    job = await service.submit()
    await service.until_started(job)
    await service.cancel(job)
    service.cluster.report(job, SUCCESS)
    await service.until_state(job, "SUCCEEDED")


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
async def test_an_ended_job_cannot_be_cancelled(service: Service, outcome: str) -> None:
    service.cluster.script = lambda attempt: (Ended(outcome=outcome),)
    job = await service.submit()
    await service.until_state(job, outcome.upper())
    async with refused() as found:
        await service.cancel(job)
    assert found[0].code is grpc.StatusCode.FAILED_PRECONDITION
    assert found[0].reason == "JOB_ENDED"
    assert found[0].metadata["state"] == outcome.upper()


async def test_a_failure_says_its_class_its_cause_and_the_next_step(service: Service) -> None:
    ended = Ended(outcome="failed", failure_class="user", cause="the loss is NaN at step 7", next_step="lower the rate")
    service.cluster.script = lambda attempt: (a_step(1), ended)
    job = await service.submit()
    failed = await service.until_state(job, "FAILED")
    expected = training_pb2.Failure(
        failure_class=training_pb2.Failure.USER, cause="the loss is NaN at step 7", next_step="lower the rate"
    )
    assert failed.failure == expected
    assert (await service.history(job))[-1].event.state_change.failure == expected


async def test_a_failed_job_leaves_the_service_unharmed(service: Service) -> None:
    service.cluster.script = lambda attempt: (Ended(outcome="failed", failure_class="user", cause="x", next_step="y"),)
    await service.until_state(await service.submit(), "FAILED")
    service.cluster.script = lambda attempt: (SUCCESS,)
    await service.until_state(await service.submit(), "SUCCEEDED")


async def test_an_executor_that_breaks_at_the_start_fails_the_job_without_spilling_why(tmp_path: Path) -> None:
    class Broken(FakeExecutor):
        def start(self, attempt: Attempt) -> None:
            raise OSError("password: hunter2")

    async with control_plane(tmp_path, Broken()) as service:
        failed = await service.until_state(await service.submit(), "FAILED")
    assert failed.failure.failure_class == training_pb2.Failure.INFRASTRUCTURE
    assert "could not be started" in failed.failure.cause
    assert "hunter2" not in failed.failure.cause


async def test_an_executor_that_stumbles_loses_nothing(tmp_path: Path) -> None:
    class Stumbling(FakeExecutor):
        polls = 0

        def poll(self, *args: Any) -> Any:
            self.polls += 1
            if self.polls == 2:
                raise ConnectionError("for a moment")
            return super().poll(*args)

    cluster = Stumbling()
    async with control_plane(tmp_path, cluster) as service:
        job = await service.submit()
        await service.until_started(job)
        service.cluster.report(job, a_step(1))
        await service.until_state(job, "RUNNING")
        service.cluster.report(job, a_step(2), SUCCESS)
        await service.until_state(job, "SUCCEEDED")
        assert kinds(await service.history(job))[3:] == ["step_metrics", "step_metrics", "SUCCEEDED"]


async def test_an_attempt_that_the_cluster_has_lost_fails_with_the_next_step(service: Service) -> None:
    job = await service.submit()
    await service.until_started(job)
    service.cluster.lose(job)
    failed = await service.until_state(job, "FAILED")
    assert failed.failure.failure_class == training_pb2.Failure.INFRASTRUCTURE
    assert f"batchyard job rerun {job}" in failed.failure.next_step

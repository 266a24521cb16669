"""ExplainTrainingJob, over gRPC: it says what the scheduler does."""

from __future__ import annotations

import time
from pathlib import Path

import grpc
import pytest

from batchyard.cluster.executor import Capacity
from batchyard.cluster.fake_executor import FakeExecutor
from batchyard.control import backoff
from batchyard.training.events import Ended, Resumed
from batchyard.v1 import training_pb2
from batchyard.v1.training_pb2 import Queueing, TrainingJobExplanation
from tests.control.harness import Service, a_checkpoint, a_step, control_plane, refused, state_name

LOST = Ended(outcome="failed", failure_class="infrastructure", cause="the worker was ended by SIGKILL", next_step="-")
TWO = {"workers": {"count": 2}}


async def explain(service: Service, job: str) -> TrainingJobExplanation:
    request = training_pb2.ExplainTrainingJobRequest(name=f"trainingJobs/{job}")
    found = await service.training.ExplainTrainingJob(request)
    assert isinstance(found, TrainingJobExplanation)
    return found


async def test_a_waiting_job_is_told_what_is_ahead_and_what_the_cluster_has(service: Service) -> None:
    running = await service.submit(preemptible=False)
    await service.until_started(running)
    older = await service.submit(**TWO)
    urgent = await service.submit(priority=5, **TWO)
    found = await explain(service, older)
    queue = found.queueing
    assert (state_name(found.state), queue.verdict, queue.position) == ("QUEUED", Queueing.BEHIND, 2)
    assert [(place.name, place.priority, place.verdict, place.needs.workers) for place in queue.ahead] == [
        (f"trainingJobs/{urgent}", 5, Queueing.NO_ROOM, 2)
    ]
    assert (queue.needs.workers, queue.cluster.workers, queue.used.workers) == (2, 2, 1)
    assert list(queue.running) == [f"trainingJobs/{running}"]
    assert found.summary == (
        f"1 job is ahead of it: it needs 2 workers; the cluster has 2 workers; in use: 1 worker by {running}"
    )
    assert "it is the next to start" in (await explain(service, urgent)).summary


async def test_when_a_waiting_job_goes_away_those_behind_it_start(service: Service) -> None:
    running = await service.submit()
    await service.until_started(running)
    big = await service.submit(**TWO)
    small = await service.submit()
    assert (await explain(service, small)).queueing.verdict == Queueing.BEHIND
    await service.cancel(big)
    await service.until_started(small)


async def test_a_retry_that_backs_off_says_until_when(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 60.0)
    job = await service.submit(retries=1)
    await service.until_started(job)
    service.cluster.report(job, a_step(1), a_checkpoint(1), LOST)
    await service.until_state(job, "RUNNING")
    async for response in service.watch(job, kinds=[training_pb2.STATE_CHANGE]):
        if state_name(response.event.state_change.state) == "QUEUED" and response.event.attempt == 1:
            break
    found = await explain(service, job)
    assert found.queueing.verdict == Queueing.BACKING_OFF
    assert found.queueing.fits
    assert 0 < found.queueing.retry_time.ToMilliseconds() / 1000 - time.time() <= 60
    assert found.checkpoint.step == 1
    failed = found.attempts[0]
    assert (failed.number, failed.outcome, failed.failure_class) == (1, "failed", training_pb2.Failure.INFRASTRUCTURE)
    assert "tried again in" in found.summary


async def test_a_job_that_outgrew_its_cluster_is_told_what_to_do(service: Service) -> None:
    blocker = await service.submit(**TWO)
    await service.until_started(blocker)
    job = await service.submit(**TWO)
    service.cluster.has = Capacity(workers=1, gpus=0)
    found = await explain(service, job)
    assert (found.queueing.verdict, found.queueing.fits) == (Queueing.TOO_LARGE, False)
    assert found.next_step.startswith("start the service with --workers 2")


async def test_a_cluster_that_does_not_answer_is_the_reason_and_no_secret_is_spilled(tmp_path: Path) -> None:
    class Mute(FakeExecutor):
        answers = True

        def capacity(self) -> Capacity:
            if not self.answers:
                raise ConnectionError("password: hunter2")
            return super().capacity()

    cluster = Mute(workers=1)
    async with control_plane(tmp_path, cluster) as service:
        await service.until_started(await service.submit())
        job = await service.submit()
        cluster.answers = False
        found = await explain(service, job)
        cluster.answers = True
    assert found.queueing.verdict == Queueing.CLUSTER_SILENT
    assert not found.queueing.HasField("fits")
    assert "hunter2" not in found.summary


async def test_a_running_job_tells_where_it_is_and_how_its_attempts_ended(service: Service) -> None:
    job = await service.submit(retries=1)
    await service.until_started(job)
    service.cluster.report(job, a_step(1), a_checkpoint(1), LOST)
    await service.until_started(job, 2)
    service.cluster.report(job, Resumed(step=1, uri="file:///checkpoints/1"), a_step(2))
    async for response in service.watch(job, kinds=[training_pb2.STEP_METRICS]):
        if response.event.step_metrics.step == 2:
            break
    found = await explain(service, job)
    assert found.summary == "attempt 2 runs: at work, step 2 of 100"
    assert found.next_step == f"batchyard job watch {job}"
    assert [(each.outcome, each.resumed_step) for each in found.attempts] == [("failed", 0), ("", 1)]
    assert not found.HasField("queueing")


async def test_states_that_wait_for_a_person_name_the_command(service: Service) -> None:
    job = await service.submit()
    await service.until_started(job)
    service.cluster.report(job, a_step(3), a_checkpoint(3))
    await service.until_state(job, "RUNNING")
    await service.pause(job)
    await service.until_state(job, "PAUSED")
    found = await explain(service, job)
    assert (found.next_step, found.checkpoint.step) == (f"batchyard job resume {job}", 3)
    assert "goes on from the checkpoint of step 3" in found.summary
    await service.cancel(job)
    assert (await explain(service, job)).summary.startswith("it was cancelled")


async def test_a_failed_job_repeats_its_cause_and_its_next_step(service: Service) -> None:
    ended = Ended(outcome="failed", failure_class="user", cause="the loss is NaN at step 7", next_step="lower the rate")
    service.cluster.script = lambda attempt: (ended,)
    job = await service.submit()
    await service.until_state(job, "FAILED")
    found = await explain(service, job)
    assert found.summary == "attempt 1 failed (user): the loss is NaN at step 7"
    assert found.next_step == found.failure.next_step == "lower the rate"


async def test_a_job_that_does_not_exist_is_not_found(service: Service) -> None:
    async with refused() as found:
        await explain(service, "nothing-1")
    assert found[0].code is grpc.StatusCode.NOT_FOUND

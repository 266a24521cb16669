"""What becomes of jobs when the control plane is killed or stopped, and comes back."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from batchyard.cluster.fake_executor import FakeExecutor
from batchyard.control import scheduler
from batchyard.training.events import Ended, PhaseChange
from batchyard.v1 import training_pb2
from tests.control.harness import (
    Service,
    a_checkpoint,
    a_spec,
    a_step,
    artifact,
    control_plane,
    job_id,
    publishing,
    state_name,
    until,
    until_points,
)

TWO = {"workers": {"count": 2}}
SUCCESS = Ended(outcome="succeeded")


@pytest.fixture
def database_url() -> None:
    """SQLite alone: what a killed control plane leaves is a copy of the file."""


def copied(data: Path, to: Path) -> Path:
    """The data folder as a control plane that is killed now would leave it."""
    to.mkdir()
    with sqlite3.connect(data / "batchyard.db") as source, sqlite3.connect(to / "batchyard.db") as target:
        source.backup(target)
    source.close()
    target.close()
    return to


def twin(cluster: FakeExecutor) -> FakeExecutor:
    """The same cluster again, so that what the killed control plane still does to its own is not seen."""
    other = FakeExecutor(workers=cluster.has.workers)
    for attempt in cluster.started:
        other.start(attempt)
        other.report(attempt.id.job, *cluster.poll(attempt.id, 0).events)
    return other


async def test_a_control_plane_that_comes_back_goes_on_where_the_killed_one_ended(
    service: Service, tmp_path: Path
) -> None:
    running, queued = await service.submit(**TWO, **publishing()), await service.submit()
    attempt = await service.until_started(running)
    service.cluster.report(running, PhaseChange(phase="training"), a_step(1), a_step(2))
    await service.until_state(running, "RUNNING")
    seen = await service.history(running)
    cluster = twin(service.cluster)
    async with control_plane(copied(tmp_path / "data", tmp_path / "killed"), cluster) as next_one:
        cluster.report(running, a_step(3), artifact(attempt), SUCCESS)
        ended = await next_one.until_state(running, "SUCCEEDED")
        assert (ended.attempt, ended.model_version) == (1, "models/digits/versions/1")
        rest = await next_one.history(running, cursor=seen[-1].cursor)
        steps = [r.event.step_metrics.step for r in seen + rest if r.event.HasField("step_metrics")]
        assert steps == [1, 2, 3]
        await next_one.until_state(queued, "STARTING")
    assert [attempt.id.job for attempt in cluster.started] == [running, queued]


async def test_what_ran_and_is_gone_is_tried_again_when_the_control_plane_comes_back(
    service: Service, tmp_path: Path
) -> None:
    job = await service.submit(retries=1)
    await service.until_started(job)
    service.cluster.report(job, a_step(1), a_checkpoint(1), a_step(2))
    await until_points(service, job, [1, 2])
    async with control_plane(copied(tmp_path / "data", tmp_path / "killed"), FakeExecutor()) as next_one:
        attempt = await next_one.until_started(job)
        assert (attempt.id.number, attempt.resume_from) == (2, "file:///checkpoints/1")


async def test_what_ran_and_is_gone_fails_where_there_is_no_retry(service: Service, tmp_path: Path) -> None:
    job = await service.submit()
    await service.until_started(job)
    service.cluster.report(job, a_step(1))
    await service.until_state(job, "RUNNING")
    async with control_plane(copied(tmp_path / "data", tmp_path / "killed"), FakeExecutor()) as next_one:
        failed = await next_one.until_state(job, "FAILED")
    assert failed.failure.failure_class == training_pb2.Failure.INFRASTRUCTURE
    assert "attempt 1 is gone" in failed.failure.cause


async def test_a_start_that_never_reached_the_cluster_is_made_up_for(service: Service, tmp_path: Path) -> None:
    job = await service.submit()
    await service.until_started(job)
    fresh = FakeExecutor(script=lambda attempt: (SUCCESS,))
    async with control_plane(copied(tmp_path / "data", tmp_path / "killed"), fresh) as next_one:
        await next_one.until_state(job, "SUCCEEDED")


async def test_a_cancel_that_was_asked_for_before_the_kill_is_carried_out_after_it(
    service: Service, tmp_path: Path
) -> None:
    service.cluster.obedient = False
    job = await service.submit()
    await service.until_started(job)
    service.cluster.report(job, a_step(1))
    await service.until_state(job, "RUNNING")
    await service.cancel(job)
    killed = copied(tmp_path / "data", tmp_path / "killed")
    async with control_plane(killed, twin(service.cluster)) as next_one:
        await next_one.until_state(job, "CANCELLED")
    service.cluster.report(job, Ended(outcome="cancelled"))


async def test_a_clean_stop_pauses_what_runs_and_it_goes_on_after_the_next_start(
    tmp_path: Path, cluster: FakeExecutor
) -> None:
    async with control_plane(tmp_path, cluster) as service:
        running, waiting = await service.submit(**TWO), await service.submit()
        await service.until_started(running)
        service.cluster.report(running, a_step(1), a_checkpoint(1))
        await service.until_state(running, "RUNNING")
    assert [attempt.job for attempt in cluster.paused] == [running]
    assert not cluster.runs(running)
    async with control_plane(tmp_path, cluster) as service:
        attempt = await service.until_started(running, 2)
        assert attempt.resume_from == "file:///checkpoints/1"
        assert state_name((await service.get(waiting)).state) == "QUEUED"


async def test_workers_that_cannot_write_a_checkpoint_at_a_clean_stop_are_stopped_without(
    tmp_path: Path, cluster: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(cluster, "pause", lambda attempt: None)
    async with control_plane(tmp_path, cluster) as service:
        job = await service.submit()
        await service.until_started(job)
        service.cluster.report(job, a_step(1))
        await service.until_state(job, "RUNNING")
    assert [attempt.job for attempt in cluster.cancelled] == [job]
    async with control_plane(tmp_path, cluster) as service:
        assert (await service.until_started(job, 2)).resume_from is None


async def test_a_job_that_was_being_cancelled_at_a_clean_stop_is_cancelled(
    tmp_path: Path, cluster: FakeExecutor
) -> None:
    cluster.obedient = False
    async with control_plane(tmp_path, cluster) as service:
        job = await service.submit()
        await service.until_started(job)
        await service.cancel(job)
        await until(lambda: bool(cluster.cancelled))
        cluster.report(job, Ended(outcome="cancelled"))
    async with control_plane(tmp_path, cluster) as service:
        assert state_name((await service.get(job)).state) == "CANCELLED"


async def test_jobs_and_their_requests_survive_a_restart(tmp_path: Path, cluster: FakeExecutor) -> None:
    request = training_pb2.CreateTrainingJobRequest(spec=a_spec(), request_id="123e4567-e89b-12d3-a456-426614174000")
    async with control_plane(tmp_path, cluster) as service:
        first = job_id(await service.training.CreateTrainingJob(request))
    async with control_plane(tmp_path, cluster) as service:
        assert job_id(await service.training.CreateTrainingJob(request)) == first

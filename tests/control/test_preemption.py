"""Users' quotas, and jobs that give way to one of higher priority, over gRPC."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from batchyard.cluster.fake_executor import FakeExecutor
from batchyard.control import backoff
from batchyard.control.quotas import Quota
from batchyard.training.events import Ended, Resumed
from batchyard.v1 import training_pb2
from batchyard.v1.training_pb2 import Queueing
from tests.control.harness import (
    Service,
    a_checkpoint,
    a_spec,
    a_step,
    control_plane,
    job_id,
    on_sqlite,
    refused,
    state_name,
    until,
    until_points,
)
from tests.control.test_explain import explain
from tests.control.test_restart import copied, twin

TWO = {"workers": {"count": 2}}
URGENT = {**TWO, "priority": 5}


async def submit_for(service: Service, user: str, **changes: object) -> str:
    request = training_pb2.CreateTrainingJobRequest(spec=a_spec(**changes))
    job = await service.training.CreateTrainingJob(request, metadata=[("batchyard-user", user)] if user else [])
    assert job.user == user
    return job_id(job)


async def running_at(service: Service, step: int, **changes: object) -> str:
    """A job that has done so many steps, with a checkpoint at the last."""
    job = await service.submit(**changes)
    await service.until_started(job)
    service.cluster.report(job, *(a_step(each) for each in range(1, step + 1)), a_checkpoint(step))
    await until_points(service, job, list(range(1, step + 1)))
    return job


async def test_a_job_gives_way_to_one_of_higher_priority_and_goes_on_after_it(service: Service) -> None:
    modest = await running_at(service, 3, **TWO, retries=0)
    urgent = await service.submit(**URGENT)
    await service.until_started(urgent)
    assert [attempt.job for attempt in service.cluster.paused] == [modest]
    found = await explain(service, modest)
    assert state_name(found.state) == "QUEUED"
    assert found.summary.startswith(f"it was preempted by {urgent}, and costs no retry; ")
    assert (found.attempts[0].outcome, found.attempts[0].preempted_by) == ("paused", f"trainingJobs/{urgent}")
    service.cluster.report(urgent, a_step(1), Ended(outcome="succeeded"))
    attempt = await service.until_started(modest, 2)
    assert attempt.resume_from == "file:///checkpoints/3"
    service.cluster.report(modest, Resumed(step=3, uri="file:///checkpoints/3"), a_step(4), Ended(outcome="succeeded"))
    await service.until_state(modest, "SUCCEEDED")
    logged = [r.event.log_line.text for r in await service.history(modest, kinds=[training_pb2.LOG_LINE])]
    expected = f"gives way to trainingJobs/{urgent}, which has a higher priority: it goes on when there is room again"
    assert logged == [expected]


async def test_while_a_job_gives_way_both_sides_say_so_and_no_other_is_asked(
    service: Service, cluster: FakeExecutor
) -> None:
    cluster.obedient = False
    one, other = await running_at(service, 1), await running_at(service, 1)
    urgent = await service.submit(priority=5)
    await until(lambda: bool(cluster.paused))
    waiting = await explain(service, urgent)
    assert waiting.queueing.verdict == Queueing.NO_ROOM
    assert list(waiting.queueing.giving_way) == [f"trainingJobs/{other}"]
    assert f"({other} makes way)" in waiting.summary
    assert f"preempted by {urgent}" in (await explain(service, other)).summary
    later = await service.submit()
    assert (await explain(service, later)).queueing.verdict == Queueing.BEHIND
    cluster.report(other, Ended(outcome="paused"))
    await service.until_started(urgent)
    assert [attempt.job for attempt in cluster.paused] == [other]
    assert cluster.runs(one)
    for job in (one, urgent):
        cluster.report(job, Ended(outcome="succeeded"))
    for job in (other, later):
        await service.until_started(job)
        cluster.report(job, Ended(outcome="succeeded"))


async def test_a_job_that_says_so_is_left_alone(service: Service, cluster: FakeExecutor) -> None:
    await running_at(service, 1, **TWO, preemptible=False)
    urgent = await service.submit(**URGENT)
    found = await explain(service, urgent)
    assert (found.queueing.verdict, list(found.queueing.giving_way)) == (Queueing.NO_ROOM, [])
    assert not cluster.paused


async def test_a_worker_that_dies_while_its_job_gives_way_costs_no_retry(
    service: Service, cluster: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.01)
    cluster.obedient = False
    modest = await running_at(service, 2, **TWO, retries=0)
    urgent = await service.submit(**URGENT)
    await until(lambda: bool(cluster.paused))
    cluster.report(modest, Ended(outcome="failed", failure_class="infrastructure", cause="SIGKILL", next_step="-"))
    await service.until_started(urgent)
    failed = (await explain(service, modest)).attempts[0]
    assert (failed.outcome, failed.failure_class) == ("failed", training_pb2.Failure.PREEMPTED)
    cluster.report(urgent, Ended(outcome="succeeded"))
    await service.until_started(modest, 2)
    cluster.report(modest, Ended(outcome="succeeded"))


async def test_a_job_that_is_cancelled_while_it_gives_way_is_cancelled(service: Service, cluster: FakeExecutor) -> None:
    cluster.obedient = False
    modest = await running_at(service, 1, **TWO)
    urgent = await service.submit(**URGENT)
    await until(lambda: bool(cluster.paused))
    await service.cancel(modest)
    await until(lambda: bool(cluster.cancelled))
    cluster.report(modest, Ended(outcome="cancelled"))
    await service.until_state(modest, "CANCELLED")
    await service.until_started(urgent)
    cluster.report(urgent, Ended(outcome="succeeded"))


@on_sqlite
async def test_a_control_plane_that_comes_back_goes_on_with_what_was_to_give_way(
    service: Service, cluster: FakeExecutor, tmp_path: Path
) -> None:
    cluster.obedient = False
    modest = await running_at(service, 1, **TWO)
    urgent = await service.submit(**URGENT)
    await until(lambda: bool(cluster.paused))
    other = twin(cluster)
    async with control_plane(copied(tmp_path / "data", tmp_path / "killed"), other) as next_one:
        await next_one.until_started(urgent)
        assert [attempt.job for attempt in other.paused] == [modest]
    cluster.report(modest, Ended(outcome="paused"))
    cluster.obedient = True


async def test_a_user_may_have_as_much_running_as_the_service_allows(tmp_path: Path) -> None:
    cluster = FakeExecutor(workers=3)
    async with control_plane(tmp_path, cluster, quota=Quota(jobs=1, workers=2)) as service:
        first = await submit_for(service, "ann")
        await service.until_started(first)
        second = await submit_for(service, "ann")
        other = await submit_for(service, "bob")
        await service.until_started(other)
        nobodys = await submit_for(service, "")
        await service.until_started(nobodys)
        found = await explain(service, second)
        share = found.queueing.share
        assert found.queueing.verdict == Queueing.OVER_QUOTA
        assert (share.user, share.jobs, share.used.workers, share.most_jobs, share.most_workers) == ("ann", 1, 1, 1, 2)
        assert not share.HasField("most_gpus")
        assert found.summary == (
            "it needs 1 worker; user ann may have 1 job, 2 workers running at once and has 1 job with 1 worker: "
            "it starts after one ends"
        )
        cluster.report(first, a_step(1), Ended(outcome="succeeded"))
        await service.until_started(second)


async def test_what_no_user_may_ever_have_running_is_refused_at_once(tmp_path: Path) -> None:
    cluster = FakeExecutor(workers=4)
    async with control_plane(tmp_path, cluster, quota=Quota(workers=2)) as service, refused() as found:
        await service.submit(workers={"count": 3})
    assert found[0].code == grpc.StatusCode.INVALID_ARGUMENT
    words = "3 workers given; one user may have 2 running at once: lower it to 2 or less"
    assert found[0].fields == {"spec.workers.count": words}


async def test_a_user_with_a_name_that_is_none_is_refused(service: Service) -> None:
    async with refused() as found:
        await submit_for(service, "ann smith")
    assert "'ann smith' given" in found[0].fields["batchyard-user"]

"""job explain."""

import json
from typing import Any

import grpc
import pytest

from batchyard.client import TrainingJob, TrainingJobExplanation
from batchyard.client.testing import FakeService
from batchyard.v1.training_pb2 import AttemptSummary, Checkpointed, Failure, Queueing

JOB = "trainingJobs/try-1"


@pytest.fixture(autouse=True)
def waiting(run: Any, service: FakeService) -> None:
    run("submit", "job.yaml")
    two, four = Queueing.Resources(workers=2), Queueing.Resources(workers=4)
    place = Queueing.Place(name="trainingJobs/other-2", priority=5, verdict=Queueing.NO_ROOM, needs=four)
    service.explanations[JOB] = TrainingJobExplanation(
        name=JOB,
        state=TrainingJob.QUEUED,
        summary="13 jobs are ahead of it",
        next_step="batchyard job watch try-1",
        queueing=Queueing(
            verdict=Queueing.BEHIND, position=14, needs=two, fits=True, cluster=four, used=two, ahead=[place] * 13
        ),
        attempts=[AttemptSummary(number=1, outcome="failed", failure_class=Failure.INFRASTRUCTURE, resumed_step=0)],
        checkpoint=Checkpointed(step=20, uri="file:///checkpoints/20"),
    )


def test_a_waiting_job_is_explained_in_words(run: Any) -> None:
    facts = dict(line.split("\t", 1) for line in run("job", "explain", "try-1").stdout.splitlines())
    assert (facts["why"], facts["next"]) == ("13 jobs are ahead of it", "batchyard job watch try-1")
    assert facts["cluster"] == "4 workers, 0 GPUs; in use: 2 workers, 0 GPUs"
    assert facts["ahead"].startswith("other-2 (priority 5, 4 workers, 0 GPUs, no room)")
    assert facts["ahead"].endswith("and 3 more")
    assert facts["attempt 1"].startswith("failed (infrastructure), from the beginning")
    assert (facts["checkpoint"], facts["fits the cluster"]) == ("step 20, file:///checkpoints/20", "yes")


def test_a_users_share_and_who_makes_way_for_whom_are_told(run: Any, service: FakeService) -> None:
    share = Queueing.UserShare(user="ann", jobs=2, used=Queueing.Resources(workers=3), most_jobs=4, most_gpus=0)
    waits = service.explanations[JOB]
    share.used.gpus = 1
    waits.queueing.MergeFrom(Queueing(share=share, giving_way=["trainingJobs/modest-3"]))
    waits.attempts.append(AttemptSummary(number=2, outcome="paused", preempted_by="trainingJobs/urgent-4"))
    facts = dict(line.split("\t", 1) for line in run("job", "explain", "try-1").stdout.splitlines())
    assert facts["its user"] == "ann: runs 2 jobs, 3 workers, 1 GPU; may run 4 jobs, 0 GPUs"
    assert facts["makes way"] == "modest-3"
    assert facts["attempt 2"].startswith("paused, gave way to urgent-4")


def test_json_is_the_message(run: Any) -> None:
    found = json.loads(run("job", "explain", "try-1", "--json").stdout)
    assert (found["queueing"]["verdict"], found["queueing"]["position"]) == ("BEHIND", 14)
    assert len(found["queueing"]["ahead"]) == 13


def test_a_service_without_an_explanation_says_so(run: Any, service: FakeService) -> None:
    service.fail_next("ExplainTrainingJob", grpc.StatusCode.UNIMPLEMENTED, "an older service")
    result = run("job", "explain", "try-1")
    assert result.exit_code == 1
    assert "an older service" in result.stderr

"""job pause and job resume."""

import json
from typing import Any

import pytest

from batchyard.client import Client, Resumed, StateChange, TrainingJob
from batchyard.client.testing import FakeService

JOB = "trainingJobs/try-1"


@pytest.fixture(autouse=True)
def submitted(run: Any) -> None:
    run("submit", "job.yaml")


def test_pause_and_resume_say_the_new_state(run: Any, service: FakeService) -> None:
    service.emit(JOB, StateChange(state=TrainingJob.RUNNING))
    assert run("job", "pause", "try-1", "--wait").stdout == "PAUSED\n"
    assert run("job", "pause", "try-1").stdout == "PAUSED\n"
    assert run("job", "resume", "try-1").stdout == "QUEUED\n"
    assert json.loads(run("job", "resume", "try-1", "--json").stdout)["state"] == "QUEUED"


def test_a_job_that_has_ended_is_neither_paused_nor_resumed(run: Any, service: FakeService) -> None:
    service.emit(JOB, StateChange(state=TrainingJob.SUCCEEDED))
    for verb in ("pause", "resume"):
        result = run("job", verb, "try-1")
        assert result.exit_code == 1
        assert "has ended" in result.stderr


def test_whoever_follows_is_told_where_the_job_goes_on(run: Any, service: FakeService) -> None:
    resumed = Resumed(step=20, uri="file:///checkpoints/20")
    service.emit(JOB, StateChange(state=TrainingJob.RUNNING), resumed, StateChange(state=TrainingJob.SUCCEEDED))
    assert run("job", "watch", "try-1").stdout.splitlines()[-2:] == ["goes on from step 20", "SUCCEEDED"]


def test_waiting_for_a_pause_that_came_too_late_is_a_failure(
    run: Any, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(self: Client, name: str) -> TrainingJob:
        service.emit(JOB, StateChange(state=TrainingJob.SUCCEEDED))
        return TrainingJob(name=JOB, state=TrainingJob.PAUSING)

    monkeypatch.setattr(Client, "pause", finish)
    result = run("job", "pause", "try-1", "--wait")
    assert result.exit_code == 1
    assert "try-1 is SUCCEEDED: it was not paused" in result.stderr

"""job wait: conditions, exit codes and time limits."""

import json
import threading
from typing import Any

import pytest

from batchyard.client import StateChange, StepMetrics, TrainingJob
from batchyard.client.testing import FakeService
from batchyard.v1.training_pb2 import Failure

JOB = "trainingJobs/try-1"
RUNNING, PAUSED = StateChange(state=TrainingJob.RUNNING), StateChange(state=TrainingJob.PAUSED)
SUCCEEDED = StateChange(state=TrainingJob.SUCCEEDED)
FAILED = StateChange(state=TrainingJob.FAILED, failure=Failure(cause="no such file", next_step="Name another."))


@pytest.fixture(autouse=True)
def submitted(run: Any) -> None:
    run("submit", "job.yaml")


@pytest.mark.parametrize(
    ("condition", "story", "code"),
    [
        ("succeeded", [RUNNING, SUCCEEDED], 0),
        ("succeeded", [RUNNING, FAILED], 1),
        ("ended", [RUNNING, FAILED], 0),
        ("running", [RUNNING], 0),
        ("first-step", [RUNNING, StepMetrics(step=1, steps=10)], 0),
        ("first-step", [RUNNING, FAILED], 1),
        ("paused", [RUNNING, PAUSED], 0),
        ("paused", [PAUSED, RUNNING, SUCCEEDED], 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_exit_code_says_whether_the_condition_came(
    run: Any, service: FakeService, condition: str, story: list[Any], code: int
) -> None:
    service.emit(JOB, *story)
    assert run("job", "wait", "try-1", "--for", condition).exit_code == code


def test_it_waits_for_what_is_still_to_come(run: Any, service: FakeService) -> None:
    watching = threading.Event()

    class Calls(list[Any]):
        def append(self, call: Any) -> None:
            super().append(call)
            if call[0] == "WatchTrainingJob":
                watching.set()

    def tell_the_rest() -> None:
        if watching.wait(10):
            service.emit(JOB, SUCCEEDED)

    service.calls = Calls()
    teller = threading.Thread(target=tell_the_rest)
    teller.start()
    result = run("job", "wait", "try-1", "--json")
    teller.join()
    assert (result.exit_code, json.loads(result.stdout)["state"]) == (0, "SUCCEEDED")


def test_a_job_that_ended_otherwise_says_why_and_what_to_do(run: Any, service: FakeService) -> None:
    service.emit(JOB, FAILED)
    result = run("job", "wait", "try-1")
    assert result.stderr == "batchyard: try-1 is FAILED and will not be succeeded\n  Name another.\n"


def test_the_end_of_its_time_has_an_exit_code_of_its_own(run: Any) -> None:
    result = run("job", "wait", "try-1", "--timeout", "0.3")
    assert result.exit_code == 5
    assert "batchyard job wait try-1 --for succeeded" in result.stderr

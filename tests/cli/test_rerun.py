"""job rerun."""

import json
from typing import Any

import pytest

from batchyard.client import Checkpointed, Client, StateChange, TrainingJob
from batchyard.client.testing import FakeService
from batchyard.v1.models_pb2 import ModelVersion

FIRST, AGAIN = "trainingJobs/try-1", "trainingJobs/try-2"
SUCCEEDED = StateChange(state=TrainingJob.SUCCEEDED)


@pytest.fixture(autouse=True)
def submitted(run: Any) -> None:
    run("submit", "job.yaml")


@pytest.fixture
def second(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has the job that is submitted next report these events at once."""

    def report(*events: Any) -> None:
        submit = Client.submit

        def submit_and_report(self: Client, *arguments: Any, **more: Any) -> TrainingJob:
            job = submit(self, *arguments, **more)
            service.emit(job.name, *events)
            return job

        monkeypatch.setattr(Client, "submit", submit_and_report)

    return report


def a_checkpoint(tensors: str, step: int = 10) -> Checkpointed:
    return Checkpointed(step=step, uri=f"file:///{step}", tensors_sha256=tensors)


def test_the_same_spec_becomes_another_job(run: Any, service: FakeService) -> None:
    assert run("job", "rerun", "try-1").stdout == "try-2\n"
    assert service.jobs[AGAIN].spec == service.jobs[FIRST].spec


def test_values_can_be_replaced(run: Any, service: FakeService) -> None:
    again = json.loads(run("job", "rerun", "try-1", "--set", "seed=7", "--json").stdout)
    assert (again["spec"]["seed"], again["spec"]["steps"]) == (7, 10)
    assert service.jobs[FIRST].spec.seed == 0


def test_equal_weights_are_said_to_be(run: Any, service: FakeService, second: Any) -> None:
    service.emit(FIRST, a_checkpoint("a", 5), a_checkpoint("b"), SUCCEEDED)
    second(a_checkpoint("b"), SUCCEEDED)
    assert run("job", "rerun", "try-1", "--wait").stdout == "try-2\tequal\tcheckpoint of step 10\n"
    found = json.loads(run("job", "rerun", "try-1", "--wait", "--json").stdout)
    assert (found["of"], found["equal"], found["sha256"]) == ("try-1", True, ["b", "b"])
    assert found["job"]["name"] == "trainingJobs/try-3"


def test_different_weights_of_the_same_spec_are_a_failure(run: Any, service: FakeService, second: Any) -> None:
    service.emit(FIRST, a_checkpoint("b"), SUCCEEDED)
    second(a_checkpoint("c"), SUCCEEDED)
    result = run("job", "rerun", "try-1", "--wait")
    assert (result.exit_code, result.stdout) == (1, "try-2\tdifferent\tcheckpoint of step 10\n")
    assert "try-2 did not come out with the weights of try-1" in result.stderr
    assert run("job", "rerun", "try-1", "--wait", "--set", "seed=1").exit_code == 0


def test_published_weights_are_compared_before_checkpoints(run: Any, service: FakeService, second: Any) -> None:
    for number in (1, 2):
        service.add_version(ModelVersion(name=f"models/tiny/versions/{number}", weights_sha256="same"))
    service.emit(FIRST, a_checkpoint("b"), StateChange(state=SUCCEEDED.state, model_version="models/tiny/versions/1"))
    second(a_checkpoint("c"), StateChange(state=SUCCEEDED.state, model_version="models/tiny/versions/2"))
    assert run("job", "rerun", "try-1", "--wait").stdout == "try-2\tequal\tpublished weights\n"


@pytest.mark.parametrize(
    ("events", "why"),
    [
        pytest.param((), "nor did both write a checkpoint", id="no checkpoint"),
        pytest.param((a_checkpoint("b", 20),), "of steps 10 and 20", id="other steps"),
        pytest.param((a_checkpoint(""),), "from before checkpoints told", id="no digest"),
    ],
)
def test_what_cannot_be_compared_says_why(
    run: Any, service: FakeService, second: Any, events: tuple[Checkpointed, ...], why: str
) -> None:
    service.emit(FIRST, a_checkpoint("b"), SUCCEEDED)
    second(*events, SUCCEEDED)
    result = run("job", "rerun", "try-1", "--wait")
    assert result.exit_code == 0
    assert result.stdout.startswith("try-2\tnot comparable\t")
    assert why in result.stdout


def test_a_job_that_has_not_succeeded_is_nothing_to_compare_with(run: Any, service: FakeService) -> None:
    result = run("job", "rerun", "try-1", "--wait")
    assert result.exit_code == 1
    assert "try-1 is QUEUED" in result.stderr
    assert list(service.jobs) == [FIRST]

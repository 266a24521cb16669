"""submit --request-id: repeating a submit is safe, and a mistake with it is told field by field."""

from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo

from batchyard.client.testing import FakeService
from batchyard.client.testing.details import bad_request

REQUEST = "123e4567-e89b-12d3-a456-426614174000"


def test_submitting_twice_with_one_request_id_makes_one_job(run: Any, service: FakeService) -> None:
    first = run("submit", "job.yaml", "--request-id", REQUEST)
    assert run("submit", "job.yaml", "--request-id", REQUEST).stdout == first.stdout == "try-1\n"
    assert list(service.jobs) == ["trainingJobs/try-1"]


def test_another_job_under_the_same_request_id_is_told_what_differs(run: Any, service: FakeService) -> None:
    differs = "with another spec (steps: 10 there, 20 given)"
    message = f"request_id {REQUEST} has already created trainingJobs/try-1 {differs}"
    details = (ErrorInfo(reason="REQUEST_ID_REUSED", domain="batchyard"), bad_request(spec__steps="10 there, 20 given"))
    service.fail_next("CreateTrainingJob", grpc.StatusCode.ALREADY_EXISTS, message, *details)
    result = run("submit", "job.yaml", "--request-id", REQUEST, "--set", "steps=20")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"batchyard: {message}",
        "  Give another --request-id, or none, to make a new one.",
    ]

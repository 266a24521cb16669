"""Submitting, listing, cancelling and waiting, over real gRPC."""

import threading

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

from batchyard.client import (
    AlreadyExistsError,
    Client,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PreconditionError,
    RpcError,
    ServiceError,
    StateChange,
    TrainingJob,
    UnavailableError,
    WaitTimeoutError,
    state_name,
)
from batchyard.client.testing import FakeService, bad_request

SPEC = {"name": "try", "model": {"architecture": "mlp"}, "data": {"dataset": "digits"}, "steps": 10}


def requests(service: FakeService, method: str) -> list[object]:
    return [request for name, request, _ in service.calls if name == method]


def test_a_submitted_job_is_queued_with_what_was_asked_for(client: Client, service: FakeService) -> None:
    job = client.submit(SPEC)
    assert state_name(job) == "QUEUED"
    assert job.spec.model.architecture == "mlp"
    assert job.spec.steps == 10
    assert not job.spec.HasField("seed")


def test_one_request_id_serves_all_retries_of_a_submission(client: Client, service: FakeService) -> None:
    service.fail_next("CreateTrainingJob", grpc.StatusCode.UNAVAILABLE, "starting", times=3)
    client.submit(SPEC)
    sent = [request.request_id for request in requests(service, "CreateTrainingJob")]  # type: ignore[attr-defined]
    assert len(sent) == 4
    assert len(set(sent)) == 1
    assert len(sent[0]) == 36
    assert len(service.jobs) == 1


def test_two_submissions_have_two_request_ids(client: Client, service: FakeService) -> None:
    assert client.submit(SPEC).name != client.submit(SPEC).name


def test_a_request_id_of_ones_own_makes_repeating_safe(client: Client) -> None:
    assert client.submit(SPEC, request_id="a").name == client.submit(SPEC, request_id="a").name


def test_only_an_unavailable_service_is_tried_again(client: Client, service: FakeService) -> None:
    service.fail_next("GetTrainingJob", grpc.StatusCode.INTERNAL, "incident 1")
    with pytest.raises(ServiceError, match="incident 1"):
        client.job("x")
    assert len(requests(service, "GetTrainingJob")) == 1


def test_a_service_that_is_not_there_is_named_with_what_to_do() -> None:
    with Client("127.0.0.1:1", retry_for=0.2) as client, pytest.raises(UnavailableError) as caught:
        client.job("x")
    assert str(caught.value) == "the control plane at 127.0.0.1:1 does not answer (connection refused)"
    assert "batchyard up" in caught.value.hint


def test_a_service_that_comes_up_late_is_waited_for(service: FakeService) -> None:
    # The port is known to be free: it was this fake service's own a moment ago.
    with FakeService() as gone:
        address = gone.address
    late: list[FakeService] = []

    def come_up() -> None:
        late.append(FakeService(address).__enter__())

    timer = threading.Timer(0.3, come_up)
    timer.start()
    try:
        with Client(address, retry_for=20) as client:
            assert client.healthy()
    finally:
        timer.join()
        for fake in late:
            fake.__exit__()


def test_a_deadline_spans_all_tries(client: Client, service: FakeService) -> None:
    delay = RetryInfo(retry_delay=Duration(seconds=30))
    service.fail_next("GetTrainingJob", grpc.StatusCode.UNAVAILABLE, "later", delay, times=5)
    with pytest.raises(UnavailableError) as caught:
        client.job("x")
    assert caught.value.retry_delay == 30
    assert len(requests(service, "GetTrainingJob")) == 1, "30 s do not fit, so no second try"


def test_a_service_that_is_about_to_be_available_is_waited_for_longer(
    service: FakeService,
) -> None:
    loading = ErrorInfo(reason="LOADING", domain="batchyard")
    with Client(service.address, retry_for=0.01) as client:
        service.fail_next("ListTrainingJobs", grpc.StatusCode.UNAVAILABLE, "being loaded", loading, times=3)
        assert list(client.jobs()) == []
        service.fail_next("ListTrainingJobs", grpc.StatusCode.UNAVAILABLE, "stopping", times=3)
        with pytest.raises(UnavailableError):
            list(client.jobs())


def test_a_service_that_says_itself_why_it_is_unavailable_needs_no_starting(service: FakeService) -> None:
    failed = ErrorInfo(reason="LOAD_FAILED", domain="batchyard")
    service.fail_next("ListTrainingJobs", grpc.StatusCode.UNAVAILABLE, "could not be loaded", failed)
    with Client(service.address, retry_for=0.0) as client, pytest.raises(UnavailableError) as caught:
        list(client.jobs())
    assert caught.value.hint == ""


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequestError),
        (grpc.StatusCode.NOT_FOUND, NotFoundError),
        (grpc.StatusCode.ALREADY_EXISTS, AlreadyExistsError),
        (grpc.StatusCode.FAILED_PRECONDITION, PreconditionError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, OverloadedError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceededError),
        (grpc.StatusCode.DATA_LOSS, ServiceError),
    ],
)
def test_each_status_has_its_exception(
    client: Client, service: FakeService, code: grpc.StatusCode, kind: type[RpcError]
) -> None:
    service.fail_next("GetTrainingJob", code, "words", ErrorInfo(reason="WHY", metadata={"thing": "x"}))
    with pytest.raises(kind) as caught:
        client.job("x")
    error = caught.value
    assert (error.code, error.reason, error.metadata, str(error)) == (code.name, "WHY", {"thing": "x"}, "words")


def test_what_is_wrong_with_a_job_is_named_as_in_its_file(client: Client, service: FakeService) -> None:
    details = bad_request(spec__steps="0 given; expected 1 or more")
    service.fail_next("CreateTrainingJob", grpc.StatusCode.INVALID_ARGUMENT, "spec.name: x; spec.steps: y", details)
    with pytest.raises(InvalidRequestError) as caught:
        client.submit(SPEC)
    assert [str(v) for v in caught.value.violations] == ["steps: 0 given; expected 1 or more"]
    assert str(caught.value) == "name: x; steps: y"


def test_a_listing_goes_through_all_pages_newest_first(client: Client, service: FakeService) -> None:
    names = [client.submit(SPEC).name for _ in range(230)]
    assert [job.name for job in client.jobs()] == names[::-1]
    assert len(requests(service, "ListTrainingJobs")) == 3


def test_a_listing_fetches_no_page_that_nobody_asks_for(client: Client, service: FakeService) -> None:
    for _ in range(150):
        client.submit(SPEC)
    next(client.jobs())
    assert len(requests(service, "ListTrainingJobs")) == 1


def test_jobs_are_listed_by_state(client: Client, service: FakeService) -> None:
    first, second = client.submit(SPEC), client.submit(SPEC)
    service.emit(first.name, StateChange(state=TrainingJob.RUNNING))
    assert [job.name for job in client.jobs([TrainingJob.RUNNING])] == [first.name]
    assert [job.name for job in client.jobs([TrainingJob.QUEUED])] == [second.name]


def test_a_job_is_named_by_id_or_by_resource_name(client: Client) -> None:
    name = client.submit(SPEC).name
    assert client.job(name).name == client.job(name.removeprefix("trainingJobs/")).name == name


def test_cancelling_twice_is_once(client: Client) -> None:
    name = client.submit(SPEC).name
    assert state_name(client.cancel(name)) == state_name(client.cancel(name)) == "CANCELLED"


def test_wait_returns_the_ended_job(client: Client, service: FakeService) -> None:
    name = client.submit(SPEC).name
    ended = StateChange(state=TrainingJob.SUCCEEDED, model_version="models/m/versions/1")
    timer = threading.Timer(0.05, service.emit, (name, ended))
    timer.start()
    job = client.wait(name, timeout=20)
    timer.join()
    assert (state_name(job), job.model_version) == ("SUCCEEDED", "models/m/versions/1")


def test_wait_gives_up_after_its_timeout_and_the_job_goes_on(client: Client) -> None:
    name = client.submit(SPEC).name
    with pytest.raises(WaitTimeoutError, match="had not ended in time") as caught:
        client.wait(name, timeout=0.2)
    assert isinstance(caught.value, TimeoutError)
    assert state_name(client.job(name)) == "QUEUED"


def test_a_token_goes_with_every_call(service: FakeService) -> None:
    with Client(service.address, service.address, token="secret") as client:
        name = client.submit(SPEC).name
        service.emit(name, StateChange(state=TrainingJob.SUCCEEDED))
        client.wait(name)
        client.inference.server_ready()
    assert {metadata.get("authorization") for _, _, metadata in service.calls} == {"Bearer secret"}
    assert "secret" not in repr(client.settings)

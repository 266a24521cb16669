"""Following events over broken connections: none lost, none repeated."""

import itertools
from collections.abc import Iterator

import grpc
import pytest

from batchyard.client import (
    Client,
    Event,
    LogLine,
    NotFoundError,
    OutOfRangeError,
    StateChange,
    StepMetrics,
    TrainingJob,
    UnavailableError,
)
from batchyard.client.testing import FakeService

SPEC = {"name": "try", "model": {"architecture": "mlp"}, "data": {"dataset": "digits"}, "steps": 10}


@pytest.fixture
def job(client: Client) -> str:
    return client.submit(SPEC).name


def run(service: FakeService, job: str, steps: int = 10) -> None:
    service.emit(job, StateChange(state=TrainingJob.RUNNING))
    for step in range(1, steps + 1):
        service.emit(
            job, StepMetrics(step=step, steps=steps, loss=1 / step), LogLine(level="INFO", text=f"step {step}")
        )
    service.emit(job, StateChange(state=TrainingJob.SUCCEEDED))


def steps_of(events: Iterator[Event]) -> list[int]:
    return [event.detail.step for event in events if isinstance(event.detail, StepMetrics)]


def test_events_come_in_order_with_time_attempt_and_cursor(client: Client, service: FakeService, job: str) -> None:
    run(service, job, steps=2)
    events = list(client.watch(job))
    kinds = ["StateChange", "StepMetrics", "LogLine", "StepMetrics", "LogLine", "StateChange"]
    assert [type(event.detail).__name__ for event in events] == kinds
    assert {event.attempt for event in events} == {1}
    assert all(event.time.tzinfo for event in events)
    assert events[-1].ends_job
    assert not events[0].ends_job


@pytest.mark.parametrize("after", [1, 2, 3, 7])
def test_nothing_is_lost_or_repeated_when_every_stream_breaks(
    client: Client, service: FakeService, job: str, after: int
) -> None:
    run(service, job)
    service.break_streams_after = after
    assert steps_of(client.watch(job)) == list(range(1, 11))
    streams = [request for method, request, _ in service.calls if method == "WatchTrainingJob"]
    assert len(streams) > 22 // (after + 1)


def test_a_watch_goes_on_after_a_cursor(client: Client, service: FakeService, job: str) -> None:
    run(service, job, steps=3)
    first = list(itertools.islice(client.watch(job), 3))
    assert steps_of(client.watch(job, cursor=first[-1].cursor)) == [2, 3]


def test_a_watch_from_the_last_cursor_ends_without_events(client: Client, service: FakeService, job: str) -> None:
    run(service, job, steps=1)
    last = list(client.watch(job))[-1]
    assert list(client.watch(job, cursor=last.cursor)) == []


def test_only_the_kinds_asked_for_are_yielded_and_sent(client: Client, service: FakeService, job: str) -> None:
    run(service, job, steps=3)
    assert [type(event.detail) for event in client.watch(job, kinds=(LogLine,))] == [LogLine] * 3
    request = next(request for method, request, _ in service.calls if method == "WatchTrainingJob")
    assert len(request.kinds) == 2, "log lines, and the state changes that tell when to stop"


def test_history_ends_before_what_is_to_come(client: Client, service: FakeService, job: str) -> None:
    service.emit(job, StateChange(state=TrainingJob.RUNNING), LogLine(level="INFO", text="so far"))
    assert [event.detail.text for event in client.logs(job)] == ["so far"]  # type: ignore[union-attr]


def test_a_service_that_restarts_on_its_address_is_found_again(job: str, client: Client, service: FakeService) -> None:
    service.emit(job, StateChange(state=TrainingJob.RUNNING), LogLine(level="INFO", text="one"))
    events = client.watch(job)
    seen = [next(events), next(events)]
    service.__exit__()
    with FakeService(service.address) as again:
        again.jobs.update(service.jobs)
        again.emit(job, StateChange(state=TrainingJob.RUNNING), LogLine(level="INFO", text="one"))
        again.emit(job, LogLine(level="INFO", text="two"), StateChange(state=TrainingJob.SUCCEEDED))
        seen += events
    texts = [event.detail.text for event in seen if isinstance(event.detail, LogLine)]
    assert texts == ["one", "two"]
    assert len(seen) == 4


def test_a_service_that_stays_away_is_given_up(job: str, client: Client, service: FakeService) -> None:
    service.emit(job, StateChange(state=TrainingJob.RUNNING))
    events = client.watch(job, reconnect_for=0.3)
    next(events)
    service.__exit__()
    with pytest.raises(UnavailableError, match="does not answer"):
        next(events)


def test_a_stream_that_only_ever_breaks_is_given_up(job: str, client: Client, service: FakeService) -> None:
    service.emit(job, LogLine(level="INFO", text="never arrives"))
    service.break_streams_after = 0
    with pytest.raises(UnavailableError, match="breaks again and again"):
        next(client.watch(job, reconnect_for=0.5))


def test_a_job_that_does_not_exist_is_an_error_at_once(client: Client) -> None:
    with pytest.raises(NotFoundError):
        next(client.watch("nothing"))


def test_a_cursor_of_another_job_is_an_error(client: Client, service: FakeService, job: str) -> None:
    service.fail_next("WatchTrainingJob", grpc.StatusCode.OUT_OF_RANGE, "not a cursor of this job")
    with pytest.raises(OutOfRangeError):
        next(client.watch(job, cursor="x"))


def test_leaving_a_watch_ends_its_stream(client: Client, service: FakeService, job: str) -> None:
    service.emit(job, LogLine(level="INFO", text="one"))
    events = client.watch(job)
    next(events)
    events.close()
    # A stream left open would hold a thread of the fake service, which stops at once only when none is held.
    service.emit(job, LogLine(level="INFO", text="two"))

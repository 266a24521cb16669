"""top: rates from two looks, and what a screen shows."""

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from batchyard.cli.top.screen import draw
from batchyard.cli.top.survey import Observer
from batchyard.client import Client, StateChange, StepMetrics, TrainingJob
from batchyard.client.testing import FakeService
from batchyard.oip import messages


def counted(requests: int, rows: int, batches: int, queue_ns: int, failed: int = 0) -> messages.ModelStatistics:
    statistics = messages.ModelStatistics(name="tiny", version="2", inference_count=rows, execution_count=batches)
    statistics.inference_stats.success.count, statistics.inference_stats.success.ns = requests, 4 * queue_ns
    statistics.inference_stats.queue.count, statistics.inference_stats.queue.ns = requests, queue_ns
    statistics.inference_stats.fail.count = failed
    return statistics


@pytest.fixture
def observer(service: FakeService) -> Any:
    times = iter(range(0, 100, 2))
    with Client(service.address, service.address, retry_for=0) as client:
        yield Observer(client, clock=lambda: float(next(times)))


def test_rates_and_means_are_those_between_two_looks(service: FakeService, observer: Observer) -> None:
    service.statistics["tiny"] = counted(100, 100, 100, queue_ns=0)
    (first,) = observer.look().traffic
    assert (first.requests_per_second, first.request_ms) == (None, None)
    service.statistics["tiny"] = counted(300, 900, 200, queue_ns=200_000_000, failed=1)
    (second,) = observer.look().traffic
    assert (second.requests_per_second, second.failures_per_second) == (100.0, 0.5)
    assert (second.queue_ms, second.request_ms, second.batch) == pytest.approx((1.0, 4.0, 8.0))


def test_counters_that_went_back_tell_nothing(service: FakeService, observer: Observer) -> None:
    service.statistics["tiny"] = counted(100, 100, 100, queue_ns=5)
    observer.look()
    service.statistics["tiny"] = counted(1, 1, 1, queue_ns=1)
    (traffic,) = observer.look().traffic
    assert (traffic.requests_per_second, traffic.batch) == (None, None)


def test_each_new_loss_is_part_of_a_job_s_course(run: Any, service: FakeService, observer: Observer) -> None:
    run("submit", "job.yaml")
    job = "trainingJobs/try-1"
    service.emit(job, StateChange(state=TrainingJob.RUNNING))
    for step, loss in ((1, 4.0), (2, 2.0), (2, 2.0), (3, 0.5)):
        service.emit(job, StepMetrics(step=step, steps=10, loss=loss))
        observer.look()
    assert observer.courses[job].line(10) == "█▄▁"
    service.emit(job, StateChange(state=TrainingJob.SUCCEEDED))
    survey = observer.look()
    assert ([each.name for each in survey.ended], survey.active, survey.counts) == ([job], (), {"SUCCEEDED": 1})


def test_a_plane_that_is_gone_is_said_to_be_so(run: Any, service: FakeService, observer: Observer) -> None:
    service.__exit__()
    survey = observer.look()
    assert "does not answer" in survey.control
    assert "does not answer" in survey.inference


def test_once_prints_jobs_and_models(run: Any, service: FakeService) -> None:
    run("submit", "job.yaml")
    service.emit("trainingJobs/try-1", StateChange(state=TrainingJob.RUNNING), StepMetrics(step=5, steps=10, loss=0.5))
    service.statistics["tiny"] = counted(100, 100, 100, queue_ns=0)
    result = run("top", "--once", "--interval", "0.2")
    assert result.exit_code == 0, result.stderr
    assert "job\ttry-1\trunning\t5/10\t0.5\t-" in result.stdout
    assert "model\ttiny\t2\t0\t0.0" in result.stdout


@pytest.mark.parametrize("width", [80, 100, 120, 150])
def test_ids_and_states_are_whole_however_narrow_the_terminal(
    run: Any, service: FakeService, observer: Observer, width: int
) -> None:
    run("submit", "job.yaml")
    service.emit("trainingJobs/try-1", StateChange(state=TrainingJob.CANCELLING))
    service.emit("trainingJobs/try-1", StepMetrics(step=500_000, steps=1_000_000, loss=0.12345))
    service.statistics["tiny"] = counted(1, 1, 1, queue_ns=1)
    survey = observer.look()
    survey.active[0].name = "trainingJobs/a-rather-long-name-3f2a9c01"
    console = Console(width=width, file=StringIO())
    console.print(draw(survey, observer.courses, width))
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in drawn
    for word in ("a-rather-long-name-3f2a9c01", "cancelling", "500,000/1,000,000", "0.1235", "tiny", "requests/s"):
        assert word in drawn
    assert ("██████░░░░░░" in drawn) == (width >= 120)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_asks_the_command(run: Any, shell: str) -> None:
    assert "_BATCHYARD_COMPLETE" in run("completion", shell).stdout


def test_watching_jobs_needs_a_terminal(run: Any) -> None:
    result = run("jobs", "--watch")
    assert (result.exit_code, "batchyard job watch" in result.stderr) == (2, True)

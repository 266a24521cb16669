"""What Prometheus is told of jobs: what is there, when it goes away, and what counts."""

from __future__ import annotations

import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry

from batchyard.control.metrics import Metrics
from batchyard.control.states import State
from batchyard.training.events import Ended, Evaluation, Layer, LayerStatistics, PhaseChange, StepMetrics

STEP = StepMetrics(
    step=40,
    steps=100,
    loss=0.25,
    accuracy=0.9,
    learning_rate=0.1,
    samples_per_second=1200.0,
    step_seconds=0.05,
    data_seconds=0.001,
    forward_seconds=0.02,
    backward_seconds=0.025,
    collectives_seconds=0.002,
    optimizer_seconds=0.001,
)
LAYERS = LayerStatistics(
    step=40,
    layers=(
        Layer(name="a", p15=-1.0, p50=0.1, p85=1.2, saturated=0.02, dead=0.0, drift=0.3, worker_spread=0.04),
        Layer(name="b", p15=-2.0, p50=0.2, p85=2.2, saturated=0.5, dead=0.25),
    ),
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> Metrics:
    return Metrics(CollectorRegistry(), version="1.2.3", clock=clock)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def run(metrics: Metrics, job: str = "j") -> None:
    metrics.job_state(job, None, State.QUEUED)
    metrics.job_state(job, State.QUEUED, State.STARTING)
    metrics.job_state(job, State.STARTING, State.RUNNING)


def test_every_state_has_a_count_from_the_start(metrics: Metrics) -> None:
    assert {value(metrics, "batchyard_jobs", state=state) for state in State} == {0.0}


def test_a_running_job_shows_its_last_report(metrics: Metrics) -> None:
    run(metrics)
    metrics.job_event("j", STEP)
    metrics.job_event("j", Evaluation(step=40, loss=0.3, accuracy=0.88, samples=100))

    assert value(metrics, "batchyard_jobs", state="RUNNING") == 1
    assert value(metrics, "batchyard_jobs", state="QUEUED") == 0
    assert value(metrics, "batchyard_job_step", job="j") == 40
    assert value(metrics, "batchyard_job_steps", job="j") == 100
    assert value(metrics, "batchyard_job_loss", job="j") == 0.25
    assert value(metrics, "batchyard_job_accuracy", job="j") == 0.9
    assert value(metrics, "batchyard_job_samples_per_second", job="j") == 1200
    assert value(metrics, "batchyard_job_step_seconds", job="j") == 0.05
    assert value(metrics, "batchyard_job_step_part_seconds", job="j", part="collectives") == 0.002
    assert value(metrics, "batchyard_job_evaluation_accuracy", job="j") == 0.88


def test_a_layer_shows_its_percentiles_and_leaves_out_what_it_does_not_have(metrics: Metrics) -> None:
    run(metrics)
    metrics.job_event("j", LAYERS)

    activation = "batchyard_job_layer_activation"
    assert value(metrics, activation, job="j", layer="a", percentile="p15") == -1.0
    assert value(metrics, activation, job="j", layer="a", percentile="p50") == 0.1
    assert value(metrics, activation, job="j", layer="b", percentile="p85") == 2.2
    assert value(metrics, "batchyard_job_layer_saturated_ratio", job="j", layer="b") == 0.5
    assert value(metrics, "batchyard_job_layer_dead_ratio", job="j", layer="b") == 0.25
    assert value(metrics, "batchyard_job_layer_drift", job="j", layer="a") == 0.3
    assert value(metrics, "batchyard_job_layer_drift", job="j", layer="b") is None
    assert value(metrics, "batchyard_job_layer_worker_spread", job="j", layer="a") == 0.04


@pytest.mark.parametrize("end", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_every_series_of_a_job_goes_when_it_ends_and_no_late_event_brings_one_back(
    metrics: Metrics, end: State
) -> None:
    run(metrics)
    run(metrics, "other")
    for job in ("j", "other"):
        metrics.job_event(job, STEP)
        metrics.job_event(job, LAYERS)

    metrics.job_state("j", State.RUNNING, end)
    metrics.job_event("j", STEP)
    metrics.job_event("j", LAYERS)

    text = metrics.render().decode()
    assert 'job="j"' not in text
    assert 'batchyard_job_loss{job="other"} 0.25' in text
    assert value(metrics, "batchyard_jobs_finished_total", outcome=end.lower()) == 1


def test_a_job_that_does_not_run_has_no_speed(metrics: Metrics) -> None:
    run(metrics)
    metrics.job_event("j", STEP)
    metrics.job_event("j", PhaseChange(phase="publishing"))

    assert value(metrics, "batchyard_job_samples_per_second", job="j") is None
    assert value(metrics, "batchyard_job_step", job="j") == 40

    metrics.job_event("j", STEP)
    metrics.job_state("j", State.RUNNING, State.CANCELLING)

    assert value(metrics, "batchyard_job_step_seconds", job="j") is None
    assert value(metrics, "batchyard_job_step_part_seconds", job="j", part="forward") is None


def test_reports_within_a_state_change_no_count(metrics: Metrics) -> None:
    run(metrics)
    metrics.job_state("j", State.RUNNING, State.RUNNING)

    assert value(metrics, "batchyard_jobs", state="RUNNING") == 1


def test_jobs_found_at_a_start_count_neither_as_submitted_nor_as_finished(metrics: Metrics) -> None:
    metrics.job_found("old", State.SUCCEEDED)
    metrics.job_found("waiting", State.QUEUED)
    metrics.job_found("alive", State.RUNNING)
    metrics.job_event("alive", STEP)

    assert value(metrics, "batchyard_jobs", state="SUCCEEDED") == 1
    assert value(metrics, "batchyard_jobs_finished_total", outcome="succeeded") == 0
    assert value(metrics, "batchyard_jobs_submitted_total") == 0
    assert value(metrics, "batchyard_job_loss", job="alive") == 0.25


def test_attempts_count_by_outcome_and_by_who_can_mend_them(metrics: Metrics) -> None:
    run(metrics)
    metrics.job_event("j", Ended(outcome="failed", failure_class="infrastructure", cause="c", next_step="n"))
    metrics.job_event("j", Ended(outcome="succeeded"))

    attempts = "batchyard_job_attempts_total"
    assert value(metrics, attempts, outcome="failed", failure_class="user") == 0, "there from the first scrape on"
    assert value(metrics, attempts, outcome="failed", failure_class="infrastructure") == 1
    assert value(metrics, attempts, outcome="succeeded", failure_class="") == 1


def test_the_wait_in_the_queue_and_until_the_first_step_are_measured(metrics: Metrics, clock: Clock) -> None:
    metrics.job_state("j", None, State.QUEUED)
    clock.now += 3
    metrics.job_state("j", State.QUEUED, State.STARTING)
    metrics.job_state("j", State.STARTING, State.RUNNING)
    clock.now += 4
    metrics.job_event("j", STEP)
    clock.now += 50
    metrics.job_event("j", STEP)

    assert value(metrics, "batchyard_job_queue_seconds_sum") == 3
    assert value(metrics, "batchyard_job_first_step_seconds_sum") == 7
    assert value(metrics, "batchyard_job_first_step_seconds_count") == 1


def test_promtool_finds_nothing_to_complain_about(metrics: Metrics) -> None:
    run(metrics)
    metrics.job_event("j", STEP)
    metrics.job_event("j", LAYERS)
    metrics.job_event("j", Ended(outcome="failed", failure_class="user"))

    checked = subprocess.run(["promtool", "check", "metrics"], input=metrics.render(), capture_output=True, timeout=20)

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_the_web_and_the_metrics_load_neither_torch_nor_ray() -> None:
    script = (
        "import sys; import batchyard.control.web, batchyard.control.metrics; "
        "print(sorted({'torch', 'ray'} & set(sys.modules)))"
    )

    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)

    assert loaded.stdout.strip() == "[]"

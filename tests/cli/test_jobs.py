"""submit, jobs, and job show, watch, cancel, logs."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batchyard.client import Evaluation, LogLine, PhaseChange, StateChange, StepMetrics, TrainingJob
from batchyard.client.testing import FakeService
from batchyard.v1.training_pb2 import Failure, Progress
from tests.children import running


def tell_story(service: FakeService, job: str, end: StateChange, steps: int = 100) -> None:
    """Everything that a job of `steps` steps reports."""
    service.emit(job, StateChange(state=TrainingJob.STARTING), StateChange(state=TrainingJob.RUNNING))
    service.emit(job, PhaseChange(phase=Progress.LOADING), LogLine(level="DEBUG", text="too much"))
    service.emit(
        job, PhaseChange(phase=Progress.TRAINING), LogLine(level="WARNING", rank=1, text="bell\x07 and\x1b[31m")
    )
    for step in range(1, steps + 1):
        metrics = StepMetrics(
            step=step, steps=steps, loss=2 / step, accuracy=0.5, samples_per_second=1234, step_seconds=2
        )
        service.emit(job, metrics)
    service.emit(job, Evaluation(step=steps, accuracy=0.9731, loss=0.1, samples=10000), end)


def test_submit_prints_the_id_in_a_pipe(run: Any, service: FakeService) -> None:
    result = run("submit", "job.yaml")
    assert (result.exit_code, result.stdout) == (0, "try-1\n")
    assert service.jobs["trainingJobs/try-1"].spec.steps == 10


def test_submit_prints_the_job_as_json(run: Any) -> None:
    job = json.loads(run("submit", "job.yaml", "--json").stdout)
    assert (job["name"], job["state"], job["spec"]["steps"]) == ("trainingJobs/try-1", "QUEUED", 10)


def test_submit_reads_standard_input(run: Any, service: FakeService) -> None:
    assert run("submit", "-", stdin="{name: piped, steps: 3}").stdout == "piped-1\n"
    assert service.jobs["trainingJobs/piped-1"].spec.steps == 3


def test_submit_replaces_values(run: Any, service: FakeService) -> None:
    run(
        "submit",
        "job.yaml",
        "--set",
        "steps=7",
        "--set",
        "model.hidden=[5, 5]",
        "--set",
        "optimizer.learning_rate=1e-3",
    )
    spec = service.jobs["trainingJobs/try-1"].spec
    assert (spec.steps, list(spec.model.hidden), spec.optimizer.learning_rate) == (7, [5, 5], 0.001)


@pytest.mark.parametrize("given", ["steps", "=5", "a..b=1", ".=1"])
def test_a_malformed_replacement_is_wrong_usage(run: Any, given: str) -> None:
    result = run("submit", "job.yaml", "--set", given)
    assert result.exit_code == 2
    assert f"--set: {given!r} given; expected PATH=VALUE" in result.stderr


def test_a_job_file_with_a_mistake_is_wrong_usage_and_nothing_is_sent(run: Any, service: FakeService) -> None:
    result = run("submit", "job.yaml", "--set", "optimzer.learning_rate=1")
    assert result.exit_code == 2
    assert result.stderr.startswith("batchyard: job.yaml: optimzer: unknown key; did you mean 'optimizer'?\n  ")
    assert service.calls == []


def test_following_in_a_pipe_gives_remarks_and_about_twenty_lines_of_metrics(run: Any, service: FakeService) -> None:
    run("submit", "job.yaml")
    tell_story(
        service, "trainingJobs/try-1", StateChange(state=TrainingJob.SUCCEEDED, model_version="models/m/versions/4")
    )
    result = run("job", "watch", "try-1")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert lines[:2] == ["STARTING", "RUNNING"]
    assert "WARNING bell  and [31m" in lines
    assert not any("too much" in line for line in lines)
    assert lines[-2:] == ["step 100: held-out accuracy 97.31%, loss 0.1000 on 10,000 samples", "SUCCEEDED m/4"]
    steps = [line for line in lines if line.startswith("step ") and "/" in line]
    assert 18 <= len(steps) <= 22
    assert steps[0] == "step 1/100  loss 2.0000  accuracy 50.00%  1,234 samples/s  ETA unknown"
    assert steps[1].endswith("ETA 3 min 10 s")
    assert steps[-1].endswith("ETA 0 s")


def test_following_as_json_gives_every_event_on_a_line(run: Any, service: FakeService) -> None:
    run("submit", "job.yaml")
    tell_story(service, "trainingJobs/try-1", StateChange(state=TrainingJob.SUCCEEDED), steps=3)
    events = [json.loads(line) for line in run("job", "watch", "try-1", "--json").stdout.splitlines()]
    kinds = (
        ["state_change"] * 2 + ["phase_change", "log_line"] * 2 + ["step_metrics"] * 3 + ["evaluation", "state_change"]
    )
    assert [event["kind"] for event in events] == kinds
    assert events[6] | {"cursor": "", "time": ""} == {
        "cursor": "", "time": "", "attempt": 1, "kind": "step_metrics", "step": 1, "steps": 3, "loss": 2.0,
        "accuracy": 0.5, "learning_rate": 0.0, "samples_per_second": 1234.0, "step_seconds": 2.0,
    }  # fmt: skip


def test_a_failed_job_is_exit_code_1_with_its_cause_and_what_to_do(run: Any, service: FakeService) -> None:
    run("submit", "job.yaml")
    failure = Failure(cause="loss became NaN at step 7", next_step="Lower optimizer.learning_rate.")
    tell_story(service, "trainingJobs/try-1", StateChange(state=TrainingJob.FAILED, failure=failure), steps=7)
    result = run("job", "watch", "try-1")
    assert result.exit_code == 1
    assert result.stderr == "batchyard: try-1 failed: loss became NaN at step 7\n  Lower optimizer.learning_rate.\n"


def test_a_cancelled_job_is_exit_code_1(run: Any, service: FakeService) -> None:
    run("submit", "job.yaml")
    tell_story(service, "trainingJobs/try-1", StateChange(state=TrainingJob.CANCELLED), steps=1)
    result = run("job", "watch", "try-1")
    assert result.exit_code == 1
    assert "try-1 was cancelled" in result.stderr


def test_ctrl_c_stops_watching_and_says_how_to_come_back(run: Any, service: FakeService, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "batchyard.cli", "submit", "job.yaml", "--follow", "--control", service.address]
    with running(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        while not service.jobs:
            assert child.poll() is None
        service.emit("trainingJobs/try-1", StateChange(state=TrainingJob.RUNNING))
        assert child.stdout.readline() == "RUNNING\n"
        child.send_signal(signal.SIGINT)
        _, stderr = child.communicate(timeout=30)
    assert child.returncode == 130
    assert stderr.splitlines() == [
        "batchyard: no longer watching; try-1 goes on",
        "  Come back with `batchyard job watch try-1`; stop it with `batchyard job cancel try-1`.",
    ]
    assert service.jobs["trainingJobs/try-1"].state == TrainingJob.RUNNING


def test_jobs_are_lines_of_tabs_in_a_pipe(run: Any, service: FakeService) -> None:
    assert run("jobs").stdout == ""
    run("submit", "job.yaml")
    service.emit("trainingJobs/try-1", StepMetrics(step=4, steps=10, loss=0.25))
    service.jobs["trainingJobs/try-1"].create_time.FromJsonString("2026-11-23T06:00:00Z")
    assert run("jobs").stdout == "try-1\tQUEUED\t4/10\t0.25\t-\t-\t2026-11-23T06:00:00Z\n"


def test_jobs_are_filtered_and_limited(run: Any, service: FakeService) -> None:
    for _ in range(3):
        run("submit", "job.yaml")
    service.emit("trainingJobs/try-2", StateChange(state=TrainingJob.RUNNING))
    assert [line.split("\t")[0] for line in run("jobs", "--state", "running").stdout.splitlines()] == ["try-2"]
    assert [job["name"] for job in json.loads(run("jobs", "--limit", "2", "--json").stdout)] == [
        "trainingJobs/try-3",
        "trainingJobs/try-2",
    ]


def test_show_tells_why_a_job_failed(run: Any, service: FakeService) -> None:
    run("submit", "job.yaml")
    failure = Failure(cause="no such file", next_step="Name another.")
    service.emit("trainingJobs/try-1", StateChange(state=TrainingJob.FAILED, failure=failure))
    facts = dict(line.split("\t") for line in run("job", "show", "try-1").stdout.splitlines())
    assert facts["state"] == "FAILED"
    assert (facts["failed because"], facts["what to do"]) == ("no such file", "Name another.")
    assert facts["spec.data"] == "{dataset: digits}"
    assert "remaining" not in facts


def test_a_job_that_does_not_exist_is_exit_code_1(run: Any) -> None:
    for command in ("show", "watch", "cancel", "logs"):
        result = run("job", command, "nothing")
        assert result.exit_code == 1
        assert result.stderr.startswith("batchyard: trainingJobs/nothing does not exist\n  ")


def test_cancel_says_the_new_state(run: Any) -> None:
    run("submit", "job.yaml")
    assert run("job", "cancel", "try-1", "--wait").stdout == "CANCELLED\n"


def test_cancelling_an_ended_job_is_exit_code_1(run: Any, service: FakeService) -> None:
    run("submit", "job.yaml")
    service.emit("trainingJobs/try-1", StateChange(state=TrainingJob.SUCCEEDED))
    assert run("job", "cancel", "try-1").exit_code == 1


def test_logs_are_time_level_worker_and_text(run: Any, service: FakeService) -> None:
    run("submit", "job.yaml")
    service.emit("trainingJobs/try-1", LogLine(level="INFO", text="up"), LogLine(level="ERROR", rank=1, text="a\tb"))
    lines = [line.split("\t") for line in run("job", "logs", "try-1").stdout.splitlines()]
    assert [line[1:] for line in lines] == [["INFO", "supervisor", "up"], ["ERROR", "worker 1", "a b"]]

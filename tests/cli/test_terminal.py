"""What a person sees: tables and a progress bar, in a real terminal (a pty)."""

import os
import pty
import re
import sys
from pathlib import Path

from batchyard.client import Evaluation, StateChange, StepMetrics, TrainingJob
from batchyard.client.testing import FakeService
from batchyard.v1.training_pb2 import Failure
from tests.children import running

JOB = "{name: try, model: {architecture: mlp}, data: {dataset: digits}, steps: 40}"


def in_terminal(service: FakeService, *arguments: str, code: int = 0) -> str:
    """What `batchyard ARGUMENTS` writes to a terminal of 130 columns, escape sequences left out."""
    ours, theirs = pty.openpty()
    flags = ["--control", service.address]
    environment = {**os.environ, "COLUMNS": "130", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "batchyard.cli", *arguments, *flags]
    with running(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as child:
        os.close(theirs)
        output = bytearray()
        while chunk := _read(ours):
            output += chunk
    os.close(ours)
    assert child.returncode == code
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.decode()).replace("\r", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other side is closed
        return b""


def test_jobs_are_a_table_with_a_heading(service: FakeService, tmp_path: Path) -> None:
    assert "No jobs yet." in in_terminal(service, "jobs")
    told = in_terminal(service, "submit", _file(tmp_path))
    assert "try-1 is queued: mlp on digits, 40 steps, 1 worker\n" in told
    assert re.search(r"Follow it: +batchyard job watch try-1\n", told)
    lines = [" ".join(line.split()) for line in in_terminal(service, "jobs").splitlines() if line.strip()]
    assert lines[0] == "job state steps loss accuracy published created"
    assert lines[-1].startswith("try-1 QUEUED 0/40 - - -")


def test_a_cause_of_several_lines_keeps_them(service: FakeService) -> None:
    failure = Failure(cause="worker 1 failed:\n  Traceback\n  ValueError")
    service.jobs["trainingJobs/x"] = TrainingJob(name="trainingJobs/x", state=TrainingJob.FAILED, failure=failure)
    lines = [line for line in in_terminal(service, "job", "show", "x").splitlines() if line]
    begin = next(i for i, line in enumerate(lines) if line.startswith("failed because"))
    column = lines[begin].index("worker")
    told = [line[column:] for line in lines[begin : begin + 3]]
    assert told == ["worker 1 failed:", "  Traceback", "  ValueError"]


def test_names_are_not_read_as_markup(service: FakeService) -> None:
    service.jobs["trainingJobs/[red]x"] = TrainingJob(name="trainingJobs/[red]x")
    assert "[red]x" in in_terminal(service, "jobs")


def test_following_shows_a_bar_with_loss_accuracy_speed_and_eta(service: FakeService, tmp_path: Path) -> None:
    in_terminal(service, "submit", _file(tmp_path))
    job = "trainingJobs/try-1"
    service.emit(job, StateChange(state=TrainingJob.RUNNING))
    for step, loss in ((1, 4.0), (20, 2.0), (40, 0.5)):
        service.emit(
            job, StepMetrics(step=step, steps=40, loss=loss, accuracy=0.875, samples_per_second=9876, step_seconds=3)
        )
    service.emit(job, Evaluation(step=40, accuracy=0.9, loss=0.4, samples=360))
    service.emit(job, StateChange(state=TrainingJob.SUCCEEDED, model_version="models/tiny/versions/1"))
    screen = in_terminal(service, "job", "watch", "try-1")
    assert "step 40: held-out accuracy 90.00%, loss 0.4000 on 360 samples" in screen
    assert "SUCCEEDED tiny/1" in screen
    last = screen.strip().splitlines()[-1]
    assert re.search(r"succeeded ━+ 40/40 █▄▁ loss 0.5000  accuracy 87.50%  9,876 samples/s  ETA 0 s", last), last


def test_the_eta_is_unknown_until_it_is_known(service: FakeService, tmp_path: Path) -> None:
    in_terminal(service, "submit", _file(tmp_path))
    service.emit("trainingJobs/try-1", StateChange(state=TrainingJob.CANCELLED))
    assert "ETA unknown" in in_terminal(service, "job", "watch", "try-1", code=1)


def _file(folder: Path) -> str:
    (folder / "job.yaml").write_text(JOB)
    return str(folder / "job.yaml")

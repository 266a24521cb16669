"""What the main commands print, whole: for a person, for a pipe, as JSON. tests/cli/snapshots holds it.

After a change that is meant: BATCHYARD_SNAPSHOTS=write python -m pytest tests/cli/test_snapshots.py, and read the diff.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from batchyard.cli.main import batchyard
from batchyard.client import Checkpointed, Evaluation, LayerStatistics, LogLine, StateChange, StepMetrics, TrainingJob
from batchyard.client.testing import FakeService
from batchyard.v1.training_pb2 import Failure, Resumed

from .schema import schema_of

SNAPSHOTS = Path(__file__).parent / "snapshots"
COMMANDS = [
    "status", "submit job.yaml", "jobs", "jobs --state running", "job show try-1", "job show lost-2", "job watch try-1",
    "job logs try-1", "job metrics try-1", "job wait try-1", "job cancel going-3", "job pause going-3",
    "job rerun try-1", "models", "model show tiny", "model set tiny --max-batch 8", "alias tiny shadow 2",
    "predict tiny one.png",
]  # fmt: skip
ERRORS = {
    "no-such-command": "sumbit job.yaml",
    "no-such-flag": "jobs --jsno",
    "no-such-job": "job show nothing",
    "unknown-key": "submit job.yaml --set stpes=3",
    "wrong-type": "submit job.yaml --set steps=many",
    "failed-job": "job watch lost-2",
    "no-service": "jobs --control 127.0.0.1:1",
}
CHANGING = (
    (r"127\.0\.0\.1:\d{2,}", "ADDRESS"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?", "TIME"),
    (r"\x1b\[[0-9;?]*[a-zA-Z]", ""),
    (r" +$", ""),
)


@pytest.fixture(autouse=True)
def scene(run: Any, service: FakeService, digit_model: str, tmp_path: Path) -> None:
    """A job that has published the model, one that has failed, one that goes on."""
    for name in ("try", "lost", "going"):
        run("submit", "job.yaml", "--set", f"name={name}")
    one, two, three = service.jobs
    service.emit(one, StateChange(state=TrainingJob.RUNNING), LogLine(level="INFO", rank=0, text="1,438 samples"))
    for step in (1, 5):
        metrics = StepMetrics(step=step, steps=10, loss=2 / step, accuracy=0.5, learning_rate=0.1, step_seconds=0.5)
        service.emit(one, metrics, LogLine(level="WARNING", rank=1, text=f"slow step {step}"))
    layer = LayerStatistics.Layer(name="norm0", p15=-1, p50=0, p85=1, saturated=0.25)
    service.emit(one, Checkpointed(step=5, uri="file:///c"), Resumed(step=5, uri="file:///c"), attempt=2)
    service.emit(one, StepMetrics(step=10, steps=10, loss=0.25, accuracy=0.9375), attempt=2)
    service.emit(one, LayerStatistics(step=10, layers=[layer]), attempt=2)
    service.emit(one, Evaluation(step=10, loss=0.5, accuracy=0.9, samples=360), attempt=2)
    service.emit(one, StateChange(state=TrainingJob.SUCCEEDED, model_version="models/tiny/versions/2"), attempt=2)
    cause = Failure(
        cause="dataset mnist: not found", failure_class=Failure.USER, next_step="Name its folder with --datasets."
    )
    service.emit(two, StateChange(state=TrainingJob.FAILED, failure=cause))
    service.emit(three, StateChange(state=TrainingJob.RUNNING), StepMetrics(step=3, steps=10, loss=1.5))
    Image.fromarray(np.array([[0, 9], [0, 0]], np.uint8)).save(tmp_path / "one.png")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output as a person's terminal of 100 columns."""
    for name, value in {"COLUMNS": "100", "LINES": "40", "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda stream: True)


def printed(command: str) -> str:
    """A command as it is typed and what comes of it, the exit code where it is not 0."""
    result = CliRunner().invoke(batchyard, command.split(), prog_name="batchyard")
    told = result.stdout + result.stderr + (f"[exit code {result.exit_code}]\n" if result.exit_code else "")
    for pattern, replacement in CHANGING:
        told = re.sub(pattern, replacement, told, flags=re.MULTILINE)
    told = re.sub(r"\d+\.\d{7,}", lambda number: f"{float(number[0]):.6f}", told)  # the last digits are the CPU's
    return f"$ batchyard {command}\n{told}"


def compare(name: str, form: str, found: str) -> None:
    path = SNAPSHOTS / form / f"{name}.txt"
    if os.environ.get("BATCHYARD_SNAPSHOTS") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found)
    assert found == path.read_text()


def slug(command: str) -> str:
    return re.sub(r"\W+", "-", command)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("command", [each for each in COMMANDS if each != "job watch try-1"], ids=slug)
def test_a_person_sees_what_was_seen_before(command: str) -> None:
    compare(slug(command), "person", printed(command))


@pytest.mark.parametrize("command", COMMANDS, ids=slug)
def test_a_pipe_gets_what_it_got_before(command: str) -> None:
    compare(slug(command), "pipe", printed(command))


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("command", COMMANDS, ids=slug)
def test_json_is_what_it_was(command: str) -> None:
    compare(slug(command), "json", printed(f"{command} --json"))


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_told_as_before(name: str) -> None:
    compare(name, "error", printed(ERRORS[name]))


@pytest.mark.parametrize("command", COMMANDS, ids=slug)
def test_every_document_is_as_the_schema_says(command: str) -> None:
    result = CliRunner().invoke(batchyard, [*command.split(), "--json"], prog_name="batchyard")
    validator = schema_of(command)
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert documents
    for each in documents:
        validator.validate(each)


def test_a_schema_refuses_what_it_does_not_know() -> None:
    validator = schema_of("alias tiny shadow 2")
    assert not validator.is_valid({"name": "models/tiny", "aliases": {}, "latest_version": 2, "colour": "red"})

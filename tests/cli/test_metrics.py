"""job metrics: what is printed, and what each format holds when its own library reads it."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from batchyard.cli.metrics import sinks
from batchyard.client import Evaluation, LayerStatistics, StateChange, StepMetrics, TrainingJob
from batchyard.client.testing import FakeService
from batchyard.v1.training_pb2 import Resumed

JOB = "trainingJobs/try-1"
Layer = LayerStatistics.Layer


def measured(step: int, loss: float) -> StepMetrics:
    return StepMetrics(step=step, steps=4, loss=loss, accuracy=0.5, learning_rate=0.1, samples_per_second=1e3)


@pytest.fixture
def job(run: Any, service: FakeService) -> str:
    """A job that was interrupted at step 3 and went on from a checkpoint of step 2: the first 99s are void."""
    run("submit", "job.yaml")
    service.emit(JOB, StateChange(state=TrainingJob.RUNNING), measured(1, 4.0), measured(2, 3.0), measured(3, 99.0))
    service.emit(JOB, Evaluation(step=3, loss=99, accuracy=0.0, samples=10))
    service.emit(JOB, Resumed(step=2, uri="file:///c"), measured(3, 2.0), measured(4, 1.0), attempt=2)
    layers = [Layer(name="norm0", p15=-1, p50=0, p85=1, drift=0.25), Layer(name="norm1", p15=-2)]
    service.emit(JOB, LayerStatistics(step=4, layers=layers), Evaluation(step=4, loss=0.5, accuracy=0.9), attempt=2)
    service.emit(JOB, StateChange(state=TrainingJob.SUCCEEDED), attempt=2)
    return "try-1"


LOSSES = [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]


def test_without_a_format_the_course_of_training_is_printed(run: Any, job: str) -> None:
    rows = [line.split("\t") for line in run("job", "metrics", job).stdout.splitlines()]
    assert [(int(row[0]), float(row[1])) for row in rows] == LOSSES
    assert [row[-1] for row in rows] == ["-", "-", "-", "0.9"]


def test_json_holds_every_quantity_by_step(run: Any, job: str) -> None:
    rows = json.loads(run("job", "metrics", job, "--json").stdout)
    assert [(row["step"], row["train/loss"], row["attempt"]) for row in rows] == [
        (1, 4.0, 1),
        (2, 3.0, 1),
        (3, 2.0, 2),
        (4, 1.0, 2),
    ]
    assert "evaluation/accuracy" not in rows[2]
    assert (rows[3]["layers/norm0/drift"], rows[3]["layers/norm1/p15"]) == (0.25, -2.0)
    assert "layers/norm1/drift" not in rows[3]  # nothing was measured there, which is not zero


def test_csv_is_a_row_for_each_step(run: Any, job: str, tmp_path: Path) -> None:
    result = run("job", "metrics", job, "--format", "csv", "--output", "deep/history.csv")
    assert result.stdout.startswith("deep/history.csv: 4 rows, ")
    with (tmp_path / "deep/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["step"]), float(row["train/loss"])) for row in rows] == LOSSES
    assert [row["layers/norm0/p85"] for row in rows] == ["", "", "", "1.0"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["history.csv"]


def test_parquet_has_types_and_nulls(run: Any, job: str, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    run("job", "metrics", job, "--format", "parquet")
    table = pq.read_table(tmp_path / "try-1.parquet")
    assert list(zip(table["step"].to_pylist(), table["train/loss"].to_pylist(), strict=True)) == LOSSES
    assert table["layers/norm1/p15"].to_pylist() == [None, None, None, -2.0]
    assert str(table.schema.field("time").type) == "timestamp[us, tz=UTC]"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_its_event_file_and_forgets_what_a_resume_made_void(
    run: Any, job: str, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run("job", "metrics", job, "--format", "tensorboard")
    assert "tensorboard --logdir runs" in result.stdout
    found = EventAccumulator(str(tmp_path / "runs/try-1")).Reload()
    assert [(point.step, point.value) for point in found.Scalars("train/loss")] == LOSSES
    assert [point.step for point in found.Scalars("evaluation/accuracy")] == [4]
    assert "layers/norm0/p15" in found.Tags()["scalars"]


def test_a_second_run_in_a_tensorboard_folder_is_refused(run: Any, job: str) -> None:
    run("job", "metrics", job, "--format", "tensorboard")
    result = run("job", "metrics", job, "--format", "tensorboard")
    assert result.exit_code == 1
    assert "holds a run already" in result.stderr


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_folder_is_no_file_for_a_table(run: Any, job: str, form: str) -> None:
    result = run("job", "metrics", job, "--format", form, "--output", ".")
    assert result.exit_code == 2
    assert result.stderr == "batchyard: .: is a folder\n  Name a file with --output.\n"


def test_a_place_that_mlflow_does_not_take_is_said_in_two_lines(
    run: Any, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    result = run("job", "metrics", job, "--format", "mlflow", "--output", "nonsense://here")
    assert result.exit_code == 1
    what, hint = result.stderr.splitlines()
    assert what.startswith("batchyard: MLflow at nonsense://here: ")
    assert hint == "  Name its tracking URI with --output."


def test_mlflow_gets_a_run_with_parameters_and_metrics(
    run: Any, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a real store without a server
    from mlflow.tracking import MlflowClient

    result = run("job", "metrics", job, "--format", "mlflow", "--output", (tmp_path / "mlruns").as_uri())
    assert result.exit_code == 0, result.stderr
    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("batchyard")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("try-1", "FINISHED")
    assert found.data.params["data.dataset"] == "digits"
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert sorted((metric.step, metric.value) for metric in history) == LOSSES


def test_a_format_whose_library_is_missing_says_what_to_install(
    run: Any, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sinks.SINKS, "mlflow", lambda target, job: sinks.required("no_such_module", "mlflow", "MLflow"))
    result = run("job", "metrics", job, "--format", "mlflow")
    assert result.exit_code == 1
    assert "pip install 'batchyard[mlflow]'" in result.stderr


def test_a_file_that_cannot_be_written_leaves_nothing(run: Any, job: str, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("a file, not a folder")
    result = run("job", "metrics", job, "--format", "csv", "--output", "plain/history.csv")
    assert (result.exit_code, result.stderr.splitlines()[0].endswith("exists")) == (1, True)


def test_an_output_needs_a_format(run: Any, job: str) -> None:
    assert run("job", "metrics", job, "--output", "x.csv").exit_code == 2

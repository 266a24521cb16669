"""Where a job's measurements can go: one interface, and the choice among those that implement it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Protocol

from batchyard.cli.failures import Failure
from batchyard.client import TrainingJob
from batchyard.client.history import Point


class Sink(Protocol):
    """Takes a job's points in order."""

    def write(self, point: Point) -> None:
        """Takes the next point."""

    def rewind(self, step: int) -> None:
        """Forgets what came after `step`: training went on from a checkpoint there."""

    def close(self, job: TrainingJob) -> str:
        """Makes it last; `job` as it is now. Returns where it is, in words."""


def _csv(target: str, job: TrainingJob) -> Sink:
    from batchyard.cli.metrics.tables import CsvTable

    return CsvTable(Path(target))


def _parquet(target: str, job: TrainingJob) -> Sink:
    required("pyarrow.parquet", "exports", "Parquet")
    from batchyard.cli.metrics.tables import ParquetTable

    return ParquetTable(Path(target))


def _tensorboard(target: str, job: TrainingJob) -> Sink:
    required("tensorboard.summary.writer.event_file_writer", "exports", "TensorBoard")
    from batchyard.cli.metrics.tensorboard import TensorBoard

    return TensorBoard(Path(target), job)


def _mlflow(target: str, job: TrainingJob) -> Sink:
    required("mlflow", "mlflow", "MLflow")
    from batchyard.cli.metrics.mlflow import MLflow

    return MLflow(target, job)


SINKS: dict[str, Callable[[str, TrainingJob], Sink]] = {
    "csv": _csv,
    "parquet": _parquet,
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
}
"""Format -> what makes its sink from the target that the user named and the job."""

TARGETS = {
    "csv": "{job}.csv",
    "parquet": "{job}.parquet",
    "tensorboard": "runs/{job}",
    "mlflow": "http://127.0.0.1:5000",
}
"""Format -> where it goes when nothing is said."""


def required(module: str, extra: str, what: str) -> ModuleType:
    """The module, or a Failure that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        install = f"{sys.executable} -m pip install 'batchyard[{extra}]'"
        raise Failure(f"{what} needs the extra `{extra}`: {error}", f"Run: {install}") from None

"""MLflow tracking: a run with the job's spec as parameters and its points as metrics."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlflow.entities import Metric, Param, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from batchyard.cli.failures import Failure
from batchyard.client import TrainingJob, plain, state_name
from batchyard.client.history import Point, Points

BATCH = 1000
"""Metrics that one call may carry."""
PARAMETERS = 100
RETRIES = "2"
"""Of a call to a tracking server, unless MLflow's own variable says otherwise; its 7 take minutes."""
EXPERIMENT = "batchyard"
"""Where runs go; it is made when it does not exist."""
_ENDS = {"SUCCEEDED": RunStatus.FINISHED, "FAILED": RunStatus.FAILED, "CANCELLED": RunStatus.KILLED}


class MLflow:
    """Sends everything at the end: MLflow cannot take a metric back, and a resumed job would have to."""

    def __init__(self, tracking_uri: str, job: TrainingJob) -> None:
        """Raises Failure for a place that MLflow does not take."""
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", RETRIES)
        self._uri, self._points = tracking_uri, Points()
        with self._refusals():
            self._client = MlflowClient(tracking_uri=tracking_uri)

    def write(self, point: Point) -> None:
        """Takes the next point."""
        self._points.append(point)

    def rewind(self, step: int) -> None:
        """Forgets what came after `step`."""
        self._points.rewind(step)

    def close(self, job: TrainingJob) -> str:
        """Makes the run. Raises Failure when the tracking server refuses it or does not answer."""
        with self._refusals():
            run = self._send(job)
        return f"{self._uri}: run {run} in the experiment {EXPERIMENT}, {len(self._points)} points"

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except MlflowException as error:
            what = " ".join(str(error.message).split())
            raise Failure(f"MLflow at {self._uri}: {what}", "Name its tracking URI with --output.") from None

    def _send(self, job: TrainingJob) -> str:
        name = job.name.removeprefix("trainingJobs/")
        found = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT)
        tags = {"batchyard.job": name, "batchyard.state": state_name(job), "batchyard.version": job.model_version}
        start = job.start_time.ToMilliseconds() or None
        run: str = self._client.create_run(experiment, start_time=start, tags=tags, run_name=name).info.run_id
        parameters = [Param(key, text) for key, text in _flat(plain(job.spec))]
        for i in range(0, len(parameters), PARAMETERS):
            self._client.log_batch(run, params=parameters[i : i + PARAMETERS])
        metrics = [
            Metric(key, value, int(point.time.timestamp() * 1000), point.step)
            for point in self._points
            for key, value in point.values.items()
        ]
        for i in range(0, len(metrics), BATCH):
            self._client.log_batch(run, metrics=metrics[i : i + BATCH])
        if state_name(job) in _ENDS:
            status = RunStatus.to_string(_ENDS[state_name(job)])
            self._client.set_terminated(run, status=status, end_time=job.end_time.ToMilliseconds())
        return run


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """A nested mapping as (path, text) pairs, for example ("optimizer.learning_rate", "0.1")."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(part, f"{path}.{key}" if path else key)
    else:
        yield path, str(value)

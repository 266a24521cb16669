"""Seconds from a job's submission to the end of its first step. A part of bench/training.py.

A service is started with a data folder of its own. Its first job waits for Ray to start (cold); the jobs after it, one
right after the other, find Ray running and a process with torch loaded, which forks their workers (warm). The job is
the paper's network on the digits that come with scikit-learn, one worker; times are the service's own, from the job's
creation to its first metrics.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchyard.cli import local
from batchyard.client import Client, TrainingJob
from bench import report

COLD_BAR, WARM_BAR = 8.0, 1.0
COLD_ROUNDS, WARM_ROUNDS = 3, 5
JOB = {
    "name": "first-step",
    "model": {"architecture": "mlp"},
    "data": {"dataset": "digits", "batch_size": 60},
    "steps": 20,
    "workers": {"count": 1},
}
PATIENCE = 120.0


def rows(cold_rounds: int = COLD_ROUNDS, warm_rounds: int = WARM_ROUNDS) -> list[report.Row]:
    """A row for the first job of a service, and one for later jobs; medians."""
    cold: list[float] = []
    warm: list[float] = []
    for number in range(cold_rounds):
        last = number == cold_rounds - 1
        with service() as client:
            cold.append(_first_step(client))
            warm += [_first_step(client) for _ in range(warm_rounds if last else 0)]
    return [
        report.Row(
            name=f"submission to first step, {kind}, median of {len(seconds)}",
            ours=statistics.median(seconds),
            peer="bar",
            peer_value=bar,
            unit="s",
            bar=1.0,
        )
        for kind, seconds, bar in (("cold", cold, COLD_BAR), ("warm", warm, WARM_BAR))
    ]


@contextmanager
def service() -> Iterator[Client]:
    """A service on free ports, and a client for it; stopped whole at the end."""
    addresses = [f"--{plane}=127.0.0.1:0" for plane in ("grpc", "http", "inference-grpc", "inference-http")]
    with tempfile.TemporaryDirectory(prefix="batchyard-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        running, _ = local.start([*addresses, "--workers", "2"], folder)
        try:
            with Client(running.facts["grpc"], running.facts["inference_grpc"]) as client:
                yield client
        finally:
            local.stop(running, folder, force=True)


def _first_step(client: Client) -> float:
    """Submits the job, waits for its end, and returns the seconds."""
    job = client.wait(client.submit(JOB).name, timeout=PATIENCE)
    if job.state != TrainingJob.SUCCEEDED:
        raise RuntimeError(f"the job ended {TrainingJob.State.Name(job.state)}: {job.failure.cause}")
    waited = job.first_step_time.ToDatetime() - job.create_time.ToDatetime()
    return float(waited.total_seconds())

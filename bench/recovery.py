"""Seconds from the loss of a worker (SIGKILL) to the next metric point of training, from the last checkpoint.

    python -m bench.recovery [--rounds 5] [--only subprocesses ray]

A service with a data folder of its own runs one job, the paper's network on digits with a checkpoint every 100 steps.
Each round waits for a checkpoint of the job's present attempt, kills one of its workers, and waits for the first point
of the next attempt. The time holds what must happen: the loss is noticed, the other workers end, the back-off (1 s),
the new workers start (Python, torch, the data), the state is loaded.

Predicted before measuring, on 2 cores: 0.2 s to notice, 0.5 s for the others, 1 s back-off, 3 s to start; together
about 4.5 s on subprocesses and, with placement and actors on top, 5.5 s on Ray.
"""

from __future__ import annotations

import json
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchyard.cli import local
from batchyard.client import Checkpointed, Client, StepMetrics
from batchyard.cluster.attempts import MARK
from batchyard.cluster.processes import ProcessId, marked
from bench import report

BAR_S = 10.0
PATIENCE = 120.0
EXECUTORS = {"subprocesses": "local", "ray": "ray"}


def job(workers: int, rounds: int) -> dict[str, object]:
    """One that does not end by itself."""
    return {
        "name": "recovery",
        "model": {"architecture": "mlp"},
        "data": {"dataset": "digits", "batch_size": 60},
        "metrics": {"every_steps": 20},
        "checkpoint": {"every_steps": 100},
        "steps": 10**9,
        "retries": rounds,
        "workers": {"count": workers},
    }


def rows(kind: str, rounds: int) -> list[report.Row]:
    """A row for one worker and one for two."""
    with service(kind) as (client, folder):
        return [_row(kind, workers, [*_recoveries(client, folder, workers, rounds)]) for workers in (1, 2)]


def _row(kind: str, workers: int, seconds: list[float]) -> report.Row:
    count = "1 worker" if workers == 1 else f"{workers} workers"
    name = f"{kind}, {count}: killed to training again, median of {len(seconds)}, slowest {max(seconds):.1f} s"
    return report.Row(name=name, ours=statistics.median(seconds), peer="bar", peer_value=BAR_S, unit="s", bar=1.0)


def _recoveries(client: Client, folder: Path, workers: int, rounds: int) -> Iterator[float]:
    name = client.submit(job(workers, rounds)).name
    for attempt in range(1, rounds + 1):
        _await(client, name, Checkpointed, attempt)
        began = time.monotonic()
        _worker(folder, name, attempt).send(signal.SIGKILL)
        _await(client, name, StepMetrics, attempt + 1)
        yield time.monotonic() - began
    client.cancel(name)
    client.wait(name, timeout=PATIENCE)


def _await(client: Client, name: str, kind: type[Checkpointed] | type[StepMetrics], attempt: int) -> None:
    events = client.watch(name, kinds=(kind,), timeout=PATIENCE)
    next(event for event in events if event.attempt >= attempt)


def _worker(folder: Path, name: str, attempt: int) -> ProcessId:
    """A worker process of the attempt."""
    orders = folder / "executor" / "attempts" / f"{name.removeprefix('trainingJobs/')}-{attempt}" / "attempt.json"
    marked_processes = marked(MARK, json.loads(orders.read_text())["mark"])
    return [one for one in marked_processes if "batchyard.cluster.worker_main" in _command(one.pid)][-1]


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


@contextmanager
def service(kind: str) -> Iterator[tuple[Client, Path]]:
    """A service on free ports, a client for it, and its data folder; stopped whole at the end."""
    addresses = [f"--{plane}=127.0.0.1:0" for plane in ("grpc", "http")]
    options = [*addresses, "--no-inference", "--workers", "2", "--executor", EXECUTORS[kind]]
    with tempfile.TemporaryDirectory(prefix="batchyard-bench-", ignore_cleanup_errors=True) as name:
        running, _ = local.start(options, Path(name))
        try:
            with Client(running.facts["grpc"]) as client:
                yield client, Path(name)
        finally:
            local.stop(running, Path(name), force=True)


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    parser = report.arguments(__doc__, "recovery", rounds=5)
    parser.add_argument("--only", nargs="+", choices=EXECUTORS, default=list(EXECUTORS), help="executors (all)")
    given = parser.parse_args()
    found = [row for kind in given.only for row in rows(kind, given.rounds)]
    report.publish("recovery", found, ("torch", "ray"), given.json)


if __name__ == "__main__":
    main()

"""`python -m batchyard.serving.engines.trial`: one engine tried on one version, in a process of its own.

Its own, so that the timing loops take neither the interpreter lock nor a core from the version that serves, a library
that loses is never loaded by the server, and one that crashes takes nobody along. Writes JSON: a list of trials.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from batchyard.artifact.manifest import MANIFEST, Manifest
from batchyard.artifact.reader import Samples, read_samples
from batchyard.serving.engines.catalogue import open_engine
from batchyard.serving.engines.certificate import check_against_certificate
from batchyard.serving.engines.choice import batch_sizes
from batchyard.serving.engines.interface import Engine, EngineError, Network
from batchyard.serving.engines.timings import Trial, cores

LOWER_PRIORITY = 10
"""Nice: about a tenth of a core where all are busy. At 19 it would be a hundredth, and a busy server would never see
its new version."""
LEAST_RUNS, LEAST_SECONDS, MOST_RUNS = 3, 0.03, 200
"""Of one batch size: the fastest run counts, so that what else the machine does hardly matters."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What to try."""

    engine: str
    folder: Path
    """Of the verified artifact."""
    max_batch: int
    seconds: float
    """For the timing of all numbers of threads together."""
    nice: int
    """How far to yield to others: LOWER_PRIORITY beside a version that serves, else 0."""

    def arguments(self) -> list[str]:
        """The command line of this module."""
        values = {name.replace("_", "-"): value for name, value in vars(self).items()}
        return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def main(arguments: list[str] | None = None) -> int:
    """Writes to the descriptor that was stdout; what libraries print there goes to stderr."""
    parser = argparse.ArgumentParser(prog="python -m batchyard.serving.engines.trial", description=__doc__)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--max-batch", required=True, type=int)
    parser.add_argument("--seconds", required=True, type=float)
    parser.add_argument("--nice", required=True, type=int)
    task = Task(**vars(parser.parse_args(arguments)))
    os.nice(task.nice)
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        json.dump([dataclasses.asdict(trial) for trial in try_engine(task)], out)
    return 0


def try_engine(task: Task) -> Iterator[Trial]:
    """One trial for each number of threads. Raises ArtifactError or ManifestError."""
    manifest = Manifest.from_json((task.folder / MANIFEST).read_bytes())
    network, samples = Network.of(manifest, task.folder), read_samples(task.folder)
    numbers = sorted({1, cores()})
    for threads in numbers:
        yield _try_threads(task, network, samples, manifest.certificate.bound, threads, task.seconds / len(numbers))


def _try_threads(task: Task, network: Network, samples: Samples, bound: float, threads: int, budget: float) -> Trial:
    try:
        engine = open_engine(task.engine, network, threads)
        error = check_against_certificate(engine, samples, bound, task.max_batch)
        seconds = time_batches(engine, network.row_shape, batch_sizes(task.max_batch), budget)
    except Exception as failure:  # whatever a library raises, it is the reason why this engine does not serve
        reason = str(failure) if isinstance(failure, EngineError) else f"{type(failure).__name__}: {failure}"
        return Trial(engine=task.engine, threads=threads, passed=False, reason=reason)
    engine.close()
    return Trial(engine=task.engine, threads=threads, passed=True, error=error, seconds=seconds)


def time_batches(engine: Engine, row_shape: tuple[int, ...], sizes: list[int], budget: float) -> dict[int, float]:
    """Rows -> seconds, rising, until what the next size should take is more than is left; the first one always."""
    seconds: dict[int, float] = {}
    deadline = time.perf_counter() + budget
    for rows in sizes:
        if seconds:
            before = max(seconds)
            expected = seconds[before] * rows / before * (1 + LEAST_RUNS)
            if time.perf_counter() + expected > deadline:
                break
        seconds[rows] = seconds_per_batch(engine.run, row_shape, rows)
    return seconds


def seconds_per_batch(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]], row_shape: tuple[int, ...], rows: int
) -> float:
    """The fastest of several runs after a first one."""
    batch = np.zeros((rows, *row_shape), np.float32)
    run(batch)
    runs: list[float] = []
    while len(runs) < LEAST_RUNS or (sum(runs) < LEAST_SECONDS and len(runs) < MOST_RUNS):
        began = time.perf_counter()
        run(batch)
        runs.append(time.perf_counter() - began)
    return min(runs)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's affair; it ends us
    sys.exit(main())

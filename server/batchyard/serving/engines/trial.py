"""`python -m batchyard.serving.engines.trial`: one engine tried on one version, in a process of its own.

Its own, so that the timing takes neither the interpreter lock nor a core from the version that serves, a library that
loses is never loaded by the server, and one that crashes takes nobody along.

It opens the engine with each number of threads, checks it against the certificate and writes one line of JSON: the
trials, still without times. Then it times what it is told to: for each line [threads, rows] it writes the seconds of
one batch. It ends with its input.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from batchyard.artifact.manifest import MANIFEST, Manifest
from batchyard.artifact.reader import read_samples
from batchyard.serving.engines.catalogue import CATALOGUE, open_engine, thread_counts
from batchyard.serving.engines.certificate import check_against_certificate
from batchyard.serving.engines.interface import Engine, EngineError, Network
from batchyard.serving.engines.stopwatch import undisturbed_seconds
from batchyard.serving.engines.timings import Trial, cores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What to try."""

    engine: str
    folder: Path
    """Of the verified artifact."""
    max_batch: int
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
    parser.add_argument("--nice", required=True, type=int)
    task = Task(**vars(parser.parse_args(arguments)))
    os.nice(task.nice)
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        network = Network.of(Manifest.from_json((task.folder / MANIFEST).read_bytes()), task.folder)
        trials, engines = open_all(task, network)
        _say(out, [dataclasses.asdict(trial) for trial in trials])
        answer(sys.stdin, out, engines, network.row_shape)
    return 0


def open_all(task: Task, network: Network) -> tuple[list[Trial], dict[int, Engine]]:
    """A trial for each number of threads, and those engines that passed. Raises ArtifactError or ManifestError."""
    trials, engines = [], {}
    precision = CATALOGUE[task.engine].precision
    for threads in thread_counts(task.engine, cores()):
        try:
            engine = open_engine(task.engine, network, threads)
            error = _check(engine, task)
        except Exception as failure:  # whatever a library raises, it is the reason why this engine does not serve
            reason = str(failure) if isinstance(failure, EngineError) else f"{type(failure).__name__}: {failure}"
            trials.append(Trial(engine=task.engine, threads=threads, precision=precision, passed=False, reason=reason))
        else:
            engines[threads] = engine
            trials.append(Trial(engine=task.engine, threads=threads, precision=precision, passed=True, error=error))
    return trials, engines


def answer(questions: Iterable[str], out: IO[str], engines: Mapping[int, Engine], row_shape: tuple[int, ...]) -> None:
    """Times one batch for each question. An engine's first of a size goes uncounted: it makes plans and memory."""
    batches: dict[int, NDArray[np.float32]] = {}
    warm: set[tuple[int, int]] = set()
    for question in questions:
        threads, rows = json.loads(question)
        batch = batches.setdefault(rows, np.zeros((rows, *row_shape), np.float32))
        run = engines[threads].run
        if (threads, rows) not in warm:
            warm.add((threads, rows))
            run(batch)
        _say(out, undisturbed_seconds(run, batch, threads))


def _check(engine: Engine, task: Task) -> float:
    samples = read_samples(task.folder)
    bound = Manifest.from_json((task.folder / MANIFEST).read_bytes()).certificate.bound
    return check_against_certificate(engine, samples, bound, task.max_batch)


def _say(out: IO[str], value: object) -> None:
    out.write(json.dumps(value) + "\n")
    out.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's affair; it ends us
    sys.exit(main())

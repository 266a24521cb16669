"""Runs histories, says how each went, and keeps the results file up to date while it does."""

from __future__ import annotations

import datetime
import json
import math
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.report import machine
from tests.chaos.histories import Ground, Result, references, run, say, summary
from tests.chaos.invariants import Reference
from tests.chaos.service import forging

COMMANDS = {"local": "make chaos", "ray": "make chaos EXECUTOR=ray"}
PROCESSES = {
    "forked": "control planes forked from a process that has imported everything, which recovery is quicker by",
    "fresh": "all as users start them",
}
RECOVERED = {
    "control": "control plane: lost to answering",
    "worker": "worker: killed to the next metric point",
    "hung worker": "worker: hung (noticed after 3 s) to the next metric point",
    "supervisor": "supervisor: killed to the next metric point",
    "head": "Ray head: killed to the next metric point",
}


@dataclass
class Part:
    """The histories on one executor."""

    planned: int
    processes: str
    """A key of PROCESSES."""
    began: float = field(default_factory=time.monotonic)
    wall_s: float = 0.0
    results: list[Result] = field(default_factory=list)


class Campaign:
    """Histories on one executor or both.

    Args:
        root: where their files lie.
        fresh: whether plain processes, too, are started as users start them, and not by a fork.
        keep: whether the files of histories without a violation stay.
        file: for the results, written anew after every history; None: for none.
        tell: is given a line, or a few, of every history.
    """

    def __init__(self, root: Path, *, fresh: bool, keep: bool, file: Path | None, tell: Callable[[str], None]) -> None:
        self._root = root
        self._fresh = fresh
        self._keep = keep
        self._file = file
        self._tell = tell
        self._references: dict[str, Reference] = {}
        self._stopped = threading.Event()
        self.parts: dict[str, Part] = {}

    def stop(self) -> None:
        """Begins no more histories; those that run come to their end."""
        self._stopped.set()

    @property
    def whole(self) -> bool:
        """Whether every history that was planned has been run."""
        return all(len(part.results) == part.planned for part in self.parts.values())

    @property
    def broken(self) -> bool:
        """Whether an invariant was violated."""
        return any(result.violations for part in self.parts.values() for result in part.results)

    def histories(self, seeds: Sequence[int], executor: str, *, jobs: int, seconds: float = math.inf) -> None:
        """Runs the histories of these seeds, `jobs` at a time, and begins none after so many seconds."""
        fresh = self._fresh or executor == "ray"  # there most processes are Ray's own anyway
        part = self.parts[executor] = Part(planned=len(seeds), processes="fresh" if fresh else "forked")
        with self._ground(executor, fresh) as ground, ThreadPoolExecutor(jobs) as pool:
            part.began = time.monotonic()
            futures = [pool.submit(self._unless_late, part.began + seconds, seed, ground) for seed in seeds]
            for result in _finished(futures):
                self._take(result, part, executor)

    @contextmanager
    def _ground(self, executor: str, fresh: bool) -> Iterator[Ground]:
        """The jobs to compare with are run once, on plain processes: on Ray they give the same bits."""
        if fresh and self._references:
            yield Ground(root=self._root, forge=None, executor=executor, keep=self._keep)
            return
        with forging(self._root) as address:
            self._references = self._references or references(Ground(root=self._root, forge=address))
            yield Ground(root=self._root, forge=None if fresh else address, executor=executor, keep=self._keep)

    def _unless_late(self, deadline: float, seed: int, ground: Ground) -> Result | None:
        if self._stopped.is_set() or time.monotonic() > deadline:
            return None
        return run(seed, ground, self._references)

    def _take(self, result: Result, part: Part, executor: str) -> None:
        part.results.append(result)
        part.wall_s = time.monotonic() - part.began
        done = len(part.results)
        left_s = part.wall_s / done * (part.planned - done)
        text = say(result, COMMANDS[executor]) if result.violations else summary(result)
        self._tell(f"{executor} {done}/{part.planned}, {_clock(left_s)} to go: {text}")
        if self._file is not None:
            fresh = self._file.with_suffix(".new")
            fresh.write_text(json.dumps(self.report(), indent=2) + "\n")
            fresh.rename(self._file)

    def report(self) -> dict[str, Any]:
        """What the results file holds."""
        return {
            "bench": "chaos",
            "machine": machine(),
            "date": datetime.date.today().isoformat(),
            "executors": {executor: _report(part) for executor, part in self.parts.items()},
        }


def _finished(futures: Sequence[Future[Result | None]]) -> Iterator[Result]:
    yield from filter(None, (future.result() for future in as_completed(futures)))


def _clock(seconds: float) -> str:
    return f"{seconds // 60:.0f}:{seconds % 60:02.0f}"


def _report(part: Part) -> dict[str, Any]:
    results = sorted(part.results, key=lambda result: result.seed)
    faults = sum((result.faults for result in results), Counter[str]())
    return {
        "processes": PROCESSES[part.processes],
        "planned": part.planned,
        "histories": len(results),
        "seeds": [results[0].seed, results[-1].seed] if results else [],
        "wall_s": round(part.wall_s, 1),
        "wall_s_of_a_history": round(part.wall_s / max(1, len(results)), 2),
        "histories_without_a_fault": sum(not result.faults for result in results),
        "faults": dict(sorted(faults.items())),
        "violations": [violation for result in results for violation in result.violations],
        "recovery_s": {
            says: _spread([seconds for result in results for what, seconds in result.recoveries if what == kind])
            for kind, says in RECOVERED.items()
        },
    }


def _spread(seconds: list[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return {"count": len(seconds)}
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    return {"count": len(seconds), "p50": round(cuts[9], 3), "p95": round(cuts[18], 3), "most": round(max(seconds), 3)}

"""Many seeded histories of a service that is being broken, and what of its promises did not hold.

    python -m tests.chaos [--histories 500] [--ray-histories 50] [--seed 1] [--seconds S] [--fresh] [--json FILE]
    python -m tests.chaos --only SEED [--executor ray] [--fresh]

The first writes FILE (bench/results/chaos.json); the second replays one history and keeps its files. Exit status 1: an
invariant was violated.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.report import RESULTS, machine
from tests.chaos.histories import Ground, Result, references, run, say, summary
from tests.chaos.service import forging

COMMANDS = {"local": "make chaos", "ray": "make chaos EXECUTOR=ray"}
RECOVERED = {
    "control": "control plane: lost to answering",
    "worker": "worker: killed to the next metric point",
    "supervisor": "supervisor: killed to the next metric point",
    "head": "Ray head: killed to the next metric point",
}


def main() -> int:
    """Runs what the arguments ask for; the exit status."""
    given = _arguments()
    if given.only is not None:
        return int(_broken(histories([given.only], given.executor, given, keep=True)))
    counts = {"local": given.histories, "ray": given.ray_histories}
    found = {
        executor: histories(range(given.seed, given.seed + count), executor, given)
        for executor, count in counts.items()
        if count
    }
    given.json.write_text(json.dumps(report(found, given), indent=2) + "\n")
    return int(any(_broken(results) for results in found.values()))


def histories(seeds: Sequence[int], executor: str, given: argparse.Namespace, *, keep: bool = False) -> list[Result]:
    """Runs the histories of these seeds, and prints a line for each; begins none after `given.seconds`."""
    with ExitStack() as stack:
        root = Path(tempfile.mkdtemp(prefix="batchyard-chaos-"))
        address = None if _fresh(executor, given) else stack.enter_context(forging(root))
        ground = Ground(root=root, forge=address, executor=executor, keep=keep)
        undisturbed = references(ground)
        pool = stack.enter_context(ThreadPoolExecutor(given.jobs if executor == "local" else 1))
        deadline = time.monotonic() + given.seconds
        futures = [pool.submit(_unless_late, deadline, seed, ground, undisturbed) for seed in seeds]
        done = []
        for result in filter(None, (future.result() for future in as_completed(futures))):
            print(say(result, COMMANDS[executor]) if result.violations else summary(result), flush=True)
            done.append(result)
        print(f"files of {'all histories' if keep else 'histories with violations'} are in {root}")
    return sorted(done, key=lambda result: result.seed)


def _fresh(executor: str, given: argparse.Namespace) -> bool:
    """Whether every process is started as users start it: on Ray most are Ray's own anyway."""
    return executor == "ray" or bool(given.fresh)


def _unless_late(deadline: float, seed: int, *arguments: Any) -> Result | None:
    return run(seed, *arguments) if time.monotonic() < deadline else None


def report(found: dict[str, list[Result]], given: argparse.Namespace) -> dict[str, Any]:
    """What the results file holds."""
    ways = {True: "fresh", False: "forked from one that has imported everything, which recovery is quicker by"}
    return {
        "bench": "chaos",
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "executors": {
            executor: {"processes": ways[_fresh(executor, given)], **_part(results)}
            for executor, results in found.items()
        },
    }


def _part(results: list[Result]) -> dict[str, Any]:
    faults = sum((result.faults for result in results), Counter[str]())
    return {
        "histories": len(results),
        "seeds": [results[0].seed, results[-1].seed],
        "seconds": round(sum(result.seconds for result in results), 1),
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


def _broken(results: list[Result]) -> bool:
    return any(result.violations for result in results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--histories", type=int, default=500, help="on plain processes (%(default)s)")
    add("--ray-histories", type=int, default=50, help="on a real Ray cluster (%(default)s)")
    add("--seed", type=int, default=1, help="the first one (%(default)s)")
    add("--jobs", type=int, default=3, help="histories at a time, on plain processes (%(default)s)")
    add("--seconds", type=float, default=math.inf, help="on each executor, none is begun after so many (no limit)")
    add("--fresh", action="store_true", help="start every process as users do, and not by a fork: takes seconds more")
    add("--only", type=int, metavar="SEED", help="replay this one and keep its files")
    add("--executor", default="local", choices=COMMANDS, help="of --only (%(default)s)")
    add("--json", type=Path, default=RESULTS / "chaos.json", help="results file (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

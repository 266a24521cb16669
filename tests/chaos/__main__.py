"""Many seeded histories of a service that is being broken, and what of its invariants did not hold.

    python -m tests.chaos [--histories 500] [--ray-histories 50] [--seed 1] [--only SEED] [--json FILE]

Writes FILE (bench/results/chaos.json) unless it replays the one seed of --only, whose files it keeps and names. Exit
status 1: an invariant was violated.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import tempfile
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


def main() -> int:
    """Runs what the arguments ask for; the exit status."""
    given = _arguments()
    if given.only is not None:
        return int(_broken(histories([given.only], given.executor, keep=True, jobs=1)))
    seeds = range(given.seed, given.seed + given.histories)
    found = {"local": histories(seeds, "local", jobs=given.jobs)}
    if given.ray_histories:
        found["ray"] = histories(range(given.seed, given.seed + given.ray_histories), "ray", jobs=1)
    given.json.write_text(json.dumps(report(found), indent=2) + "\n")
    print(json.dumps({name: part["violations"] or "no violation" for name, part in report(found)["executors"].items()}))
    return int(any(_broken(results) for results in found.values()))


def histories(seeds: Sequence[int], executor: str, *, jobs: int, keep: bool = False) -> list[Result]:
    """Runs the histories of these seeds, `jobs` at a time, and prints a line for each."""
    with ExitStack() as stack:
        root = Path(tempfile.mkdtemp(prefix="batchyard-chaos-"))
        ground = Ground(root=root, forge=stack.enter_context(forging(root)), executor=executor, keep=keep)
        undisturbed = references(ground)
        pool = stack.enter_context(ThreadPoolExecutor(jobs))
        done = []
        for future in as_completed([pool.submit(run, seed, ground, undisturbed) for seed in seeds]):
            result = future.result()
            print(say(result, COMMANDS[executor]) if result.violations else summary(result), flush=True)
            done.append(result)
        print(f"files of histories with violations{', and all others,' if keep else ''} are in {root}")
    return sorted(done, key=lambda result: result.seed)


def report(found: dict[str, list[Result]]) -> dict[str, Any]:
    """What the results file holds."""
    return {
        "bench": "chaos",
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "executors": {executor: _part(results) for executor, results in found.items()},
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
            "control plane, lost to answering": _spread([s for r in results for s in r.control_recovery]),
            "worker or supervisor, killed to the next metric point": _spread(
                [s for r in results for s in r.worker_recovery]
            ),
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
    add("--only", type=int, metavar="SEED", help="replay this one and keep its files")
    add("--executor", default="local", choices=COMMANDS, help="of --only (%(default)s)")
    add("--json", type=Path, default=RESULTS / "chaos.json", help="results file (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

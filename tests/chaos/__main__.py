"""Many seeded histories of a service that is being broken, and what of its promises did not hold.

    python -m tests.chaos [--histories 500] [--ray-histories 50] [--seed 1] [--seconds S] [--fresh] [--json FILE]
    python -m tests.chaos --only SEED [--executor ray] [--fresh]

The first writes FILE (bench/results/chaos.json) anew after every history; SIGINT or SIGTERM ends it after those that
run. The second replays one history and keeps its files. Exit status 1: an invariant was violated; 130: stopped before
all were run.
"""

from __future__ import annotations

import argparse
import functools
import math
import signal
import sys
import tempfile
from pathlib import Path

from bench.report import RESULTS
from tests.chaos.campaign import COMMANDS, Campaign

STOPPED = 130


def main() -> int:
    """Runs what the arguments ask for; the exit status."""
    given = _arguments()
    replay = given.only is not None
    root = Path(tempfile.mkdtemp(prefix="batchyard-chaos-"))
    file = None if replay else given.json
    campaign = Campaign(root, fresh=given.fresh, keep=replay, file=file, tell=functools.partial(print, flush=True))
    _stop_by_signal(campaign)
    if replay:
        campaign.histories([given.only], given.executor, jobs=1)
    else:
        _all(campaign, given)
    print(f"files of {'all histories' if replay else 'histories with violations'} are in {root}")
    return 1 if campaign.broken else 0 if campaign.whole else STOPPED


def _all(campaign: Campaign, given: argparse.Namespace) -> None:
    counts = {"local": (given.histories, given.jobs), "ray": (given.ray_histories, 1)}
    for executor, (count, jobs) in counts.items():
        if count:
            seeds = range(given.seed, given.seed + count)
            campaign.histories(seeds, executor, jobs=jobs, seconds=given.seconds)


def _stop_by_signal(campaign: Campaign) -> None:
    """The first ends it after the histories that run, the second at once."""

    def stop(signum: int, _frame: object) -> None:
        print("stopping after the histories that run; once more: at once", flush=True)
        campaign.stop()
        signal.signal(signum, signal.default_int_handler)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)


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

"""Starts the groups of workers that parts of bench/nn.py need: processes of a module whose `main` calls `member`.

Workers meet over gloo on 127.0.0.1, or over NCCL, one GPU each. Every worker makes the same calls in the same order, so
that collectives match.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bench import report

DEADLINE = 300
"""Seconds for one group of workers."""


def start(module: str, size: int, device: str, rounds: int) -> Any:
    """Runs `size` workers, `python -m MODULE`, to their end; returns what `member` got from rank 0's measurement."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        options = ["--world-size", str(size), "--folder", folder, "--device", device, "--rounds", str(rounds)]
        command = [sys.executable, "-m", module, *options, "--rank"]
        processes = [subprocess.Popen([*command, str(rank)], env=environment) for rank in range(size)]
        deadline = time.monotonic() + DEADLINE
        try:
            codes = [process.wait(max(0.0, deadline - time.monotonic())) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if any(codes):
            raise RuntimeError(f"workers of a group of {size} ended with {codes}; their messages are above")
        return json.loads((Path(folder) / "results.json").read_text())


def member(description: str | None, measure: Callable[[str, int], Any]) -> None:
    """One worker of a group, by its command line: joins, and calls measure(device, rounds). Does not return."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--world-size", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where the workers meet and results are written")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=report.LEAST_ROUNDS)
    given = parser.parse_args()
    report.keep_freed_memory()
    torch.set_num_threads(1)
    device = f"cuda:{given.rank}" if given.device == "cuda" else "cpu"
    if given.device == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if given.device == "cuda" else "gloo"
    meeting = (given.folder / "store").as_uri()
    dist.init_process_group(backend, init_method=meeting, rank=given.rank, world_size=given.world_size)
    results = measure(device, given.rounds)
    if given.rank == 0:
        (given.folder / "results.json").write_text(json.dumps(results))
    dist.barrier()
    os._exit(0)  # torch's own teardown of a process group now and then aborts the process (a thread not joined)

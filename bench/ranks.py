"""Starts the workers of a measurement: processes of one module, each told its rank and a folder to meet in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist

DEADLINE = 300
"""Seconds for one group of workers, from start to end."""


def start(module: str, size: int, options: list[str]) -> Any:
    """Runs `size` workers, `python -m MODULE --folder FOLDER OPTIONS --rank RANK`, one thread each, gloo on 127.0.0.1.

    Returns what rank 0 gave to `end`. Raises RuntimeError when a worker fails, and TimeoutExpired when one takes longer
    than DEADLINE; none outlives the call.
    """
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", module, "--folder", folder, *options, "--rank"]
        processes = [subprocess.Popen([*command, str(rank)], env=environment) for rank in range(size)]
        deadline = time.monotonic() + DEADLINE
        try:
            codes = [process.wait(max(0.0, deadline - time.monotonic())) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if any(codes):
            raise RuntimeError(f"{size} workers of {module} ended with {codes}; their messages are above")
        return json.loads(_results(Path(folder)).read_text())


def end(folder: Path, rank: int, results: Any) -> NoReturn:
    """Ends a worker when all have come here; rank 0 leaves its results, which become JSON."""
    if rank == 0:
        _results(folder).write_text(json.dumps(results))
    dist.barrier()
    os._exit(0)  # torch's own teardown of a process group now and then aborts the process (a thread not joined)


def _results(folder: Path) -> Path:
    return folder / "results.json"

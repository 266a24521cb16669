"""The groups of workers that parts of bench/nn.py need: a module's `main` calls `member`, and others `start` it.

Workers meet over gloo on 127.0.0.1, or over NCCL, one GPU each. Every worker makes the same calls in the same order, so
that collectives match.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bench import ranks, report


def start(module: str, size: int, device: str, rounds: int) -> Any:
    """Runs `size` workers of `module` to their end; returns what `member` got from rank 0's measurement."""
    options = ["--world-size", str(size), "--device", device, "--rounds", str(rounds)]
    return ranks.start(module, size, options)


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
    ranks.end(given.folder, given.rank, measure(device, given.rounds))

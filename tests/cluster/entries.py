"""Training entries for the executor tests, imported by worker processes: small, and each with one habit.
The artifact URI is a plain folder, where an entry leaves what a test looks at.
"""

# ruff: noqa: T201  what a worker prints is what is tested

from __future__ import annotations

import ctypes
import ipaddress
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from batchyard.training.context import PausedError, StoppedError, WorkerContext
from batchyard.training.events import LogLine, PhaseChange, StepMetrics, TrainingError


def metrics(step: int, steps: int) -> StepMetrics:
    return StepMetrics(
        step=step,
        steps=steps,
        loss=1 / step,
        accuracy=0.5,
        learning_rate=0.1,
        samples_per_second=10.0,
        step_seconds=0.1,
    )


def note(context: WorkerContext, name: str, text: str) -> None:
    """Leaves a small file where the test looks."""
    folder = Path(context.artifact_uri)
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{name}"
    fresh.write_text(text)
    fresh.rename(folder / name)


def succeed(context: WorkerContext) -> None:
    note(context, f"rank-{context.rank}", f"{os.getpid()} {os.environ['OMP_NUM_THREADS']} {context.device}")
    print(f"hello from {context.rank}")
    if context.rank == 0:
        context.emit(PhaseChange(phase="training"))
        steps = context.spec.total_steps(batches_per_epoch=1)
        for step in range(1, steps + 1):
            context.emit(metrics(step, steps))


def sum_over_gloo(context: WorkerContext) -> None:
    import torch
    from torch import distributed

    distributed.init_process_group("gloo", store=context.connect(), rank=context.rank, world_size=context.world_size)
    total = torch.tensor([context.rank + 1.0])
    distributed.all_reduce(total)
    note(context, f"sum-{context.rank}", str(total.item()))
    distributed.destroy_process_group()


def listen(context: WorkerContext) -> None:
    if context.rank == 0:
        store = context.connect()
        sockets = {str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
        addresses = [address for inode, address, _ in listening() if f"socket:[{inode}]" in sockets]
        note(context, "listening", "\n".join(addresses))
        del store


def listening() -> Iterator[tuple[str, str, int]]:
    """Inode, address and port of every listening TCP socket."""
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A":
                address, port = local.split(":")
                yield rest[5], str(ipaddress.ip_address(_bytes(address))), int(port, 16)


def _bytes(address: str) -> bytes:
    words = [address[i : i + 8] for i in range(0, len(address), 8)]
    return b"".join(bytes.fromhex(word)[::-1] for word in words)


def wrong_data(context: WorkerContext) -> None:
    if context.rank == context.world_size - 1:
        raise TrainingError("data.dataset: train-images is cut short", "Fetch the file again.")
    threading.Event().wait()  # as if in a collective


def bug(context: WorkerContext) -> None:
    raise ZeroDivisionError("no such thing")


def segfault(context: WorkerContext) -> None:
    if context.rank == context.world_size - 1:
        print("about to fall", flush=True)
        ctypes.string_at(0)
    context.connect()
    raise ConnectionError("connection closed by peer")


def quit_early(context: WorkerContext) -> None:
    os._exit(3)


def until_stopped(context: WorkerContext) -> None:
    note(context, f"pid-{context.rank}", str(os.getpid()))
    while not context.stop_requested():
        threading.Event().wait(0.005)
    if context.rank == 0:
        raise StoppedError
    threading.Event().wait()  # as if in a collective that rank 0 left


def until_paused(context: WorkerContext) -> None:
    note(context, f"pid-{context.rank}", str(os.getpid()))
    note(context, f"checkpoints-{context.rank}", f"{context.checkpoint_uri} {context.resume_from}")
    while not context.pause_requested():
        if context.stop_requested():
            raise StoppedError
        threading.Event().wait(0.005)
    raise PausedError


def stuck(context: WorkerContext) -> None:
    """Never looks at stop_requested, and has a child that left its session."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(context, f"pid-{context.rank}", str(os.getpid()))
    note(context, f"child-{context.rank}", str(child.pid))
    sleep_without_end()


def sleep_without_end() -> None:
    threading.Event().wait()


def report_steps(context: WorkerContext) -> None:
    """Begins when it is told to, and then reports without waiting for anybody."""
    note(context, f"pid-{context.rank}", str(os.getpid()))
    go = Path(context.artifact_uri) / "go"
    while not go.exists() and not context.stop_requested():
        threading.Event().wait(0.005)
    steps = context.spec.total_steps(batches_per_epoch=1)
    for step in range(1, steps + 1):
        if context.rank == 0:
            context.emit(metrics(step, steps))
    note(context, f"reported-{context.rank}", "all")


def chatty(context: WorkerContext) -> None:
    print("x" * 1_000_000)
    for line in range(20_000):
        print("line", line)
    context.emit(LogLine(level="INFO", text="y" * 1_000_000, rank=context.rank))
    print("the end")


def stain(context: WorkerContext) -> None:
    """Leaves what would show in whoever comes after in this process."""
    import torch

    note(context, f"found-{context.rank}", f"{hasattr(sys, 'stain')} {'STAIN' in os.environ} {torch.get_num_threads()}")
    sys.stain = os.environ["STAIN"] = "ink"  # type: ignore[attr-defined]
    torch.set_num_threads(7)


def draw(context: WorkerContext) -> None:
    import random

    import numpy as np
    import torch

    note(context, f"drawn-{context.rank}", f"{random.random()} {np.random.rand()} {torch.rand(()).item()}")

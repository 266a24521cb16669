"""Two workers of the engine against torch's DistributedDataParallel with a naive synchronised BN. A part of
bench/training.py.

Both run by turns in the same two processes of this module, one thread each, over gloo on 127.0.0.1; the engine's small
sums go through shared memory, as in a job. Times are those of the wall, from the first step to the last.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch._C._distributed_c10d import FileStore
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from batchyard.data import Dataset
from batchyard.training import worker
from batchyard.training.group import joined
from batchyard.training.loop import train
from bench import ranks, report
from bench.naive_sync import NaiveSyncBatchNorm
from bench.training_engine import EVERY, LEARNING_RATE, MLP, RESNET18, Case, Stopwatch, context_of, normalised, shuffled

BAR = 1.0
"""Never slower than what people write by hand."""
WORKERS = 2
CASES = [dataclasses.replace(MLP, steps=10 * EVERY, samples=12_000), RESNET18]
PEER = "DDP with a naive SyncBN, fused SGD"


def rows(rounds: int) -> list[report.Row]:
    """One row for each network."""
    return [
        report.compare(f"{WORKERS} workers, {name}", measured, "engine", PEER, unit="samples/s", bar=BAR)
        for name, measured in start_workers(rounds).items()
    ]


def start_workers(rounds: int, steps: Sequence[int] = ()) -> dict[str, report.Rounds]:
    """Runs both workers to their end and returns what rank 0 measured, of each case in turn.

    `steps`, where given: those of one run of each of the first cases, the only ones that are measured.
    """
    options = ["--rounds", str(rounds), *(f"--steps={each}" for each in steps)]
    results: dict[str, report.Rounds] = ranks.start("bench.training_ranks", WORKERS, options)
    return results


def main() -> None:
    """One worker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where the workers meet and results are written")
    parser.add_argument("--rounds", type=int, default=report.LEAST_ROUNDS)
    parser.add_argument("--steps", type=int, action="append", help="of one run of the next case (those of the case)")
    given = parser.parse_args()
    report.keep_freed_memory()
    torch.set_num_threads(1)
    meetings = Meetings(given.folder, given.rank)
    steps = given.steps or [case.steps for case in CASES]
    cases = [dataclasses.replace(case, steps=each) for case, each in zip(CASES, steps, strict=False)]
    results = {case.name: _measure(case, meetings, given.rounds) for case in cases}
    meetings.open()
    ranks.end(given.folder, given.rank, results)


class Meetings:
    """Where the workers meet: a store for each process group that they start, one after another."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.rank = rank
        self.kept: list[nn.Module] = []
        """Models that live as long as the process. A DistributedDataParallel that is freed after its group joins gloo's
        threads and holds the interpreter's lock, which they may need to free what they summed (torch 2.13)."""
        self._folder, self._number = folder, 0

    def store(self) -> FileStore:
        """A new one."""
        self._number += 1
        return FileStore(str(self._folder / f"store-{self._number}"), WORKERS)

    def open(self) -> None:
        """A gloo group of its own."""
        dist.init_process_group("gloo", store=self.store(), rank=self.rank, world_size=WORKERS)


def _measure(case: Case, meetings: Meetings, rounds: int) -> report.Rounds:
    dataset = case.data()
    contenders: dict[str, Callable[[], float]] = {
        "engine": lambda: _engine(case, dataset, meetings),
        PEER: lambda: _by_hand(case, dataset, meetings),
    }
    for contender in contenders.values():
        contender()
    return report.alternate(contenders, rounds)


def _engine(case: Case, dataset: Dataset, meetings: Meetings) -> float:
    """Samples a second of the engine."""
    spec = case.spec(workers={"count": WORKERS, "sync_batch_norm": "world"})
    stopwatch = Stopwatch(time.perf_counter, dist.barrier)
    ranks = {"rank": meetings.rank, "world_size": WORKERS, "connect": meetings.store}
    context = context_of(spec, **ranks, stop_requested=stopwatch)
    with joined(context) as group:
        train(context, group, worker.prepare(context, group, dataset))
        return stopwatch.rate(case.batch)


def _by_hand(case: Case, dataset: Dataset, meetings: Meetings) -> float:
    """Samples a second of a loop as a page of a tutorial has it, each worker with half of the training set."""
    meetings.open()
    network = case.by_hand()
    _synchronise(network)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch 2.13 renames the setting
        model = DistributedDataParallel(network, broadcast_buffers=False)
    meetings.kept.append(model)
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, fused=True)
    images, labels = normalised(dataset)
    batches = shuffled(images[meetings.rank :: WORKERS], labels[meetings.rank :: WORKERS], case.batch // WORKERS)
    losses, stopwatch = torch.zeros(()), Stopwatch(time.perf_counter, dist.barrier)
    for step in range(1, case.steps + 1):
        stopwatch()
        chosen, truth = next(batches)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(chosen), truth)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses += loss.detach()
        if step % EVERY == 0:
            dist.all_reduce(losses)
            losses.zero_()
    rate = stopwatch.rate(case.batch)
    dist.destroy_process_group()
    return rate


def _synchronise(network: nn.Module) -> None:
    """Every BN becomes a naive synchronised one."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, _BatchNorm):
                setattr(parent, name, NaiveSyncBatchNorm(layer.num_features))


if __name__ == "__main__":
    main()

"""Seconds of training until CIFAR-10 is recognised to 94%, on one CUDA device. A part of bench/training.py.

The network is airbench (arXiv 2404.00498) and the job an ordinary one: no alternating flips, no lookahead, one view of
each test image. Seconds are those of the loop, from its first step to the first evaluation that reaches the target;
reading the data, whitening and compilation come before. CIFAR-10 is the copy that the data folders hold: of images
that were encoded as JPEG once more, accuracies are slightly lower.
Without a device there are no rows.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from batchyard import data
from batchyard.data import Dataset
from batchyard.training import worker
from batchyard.training.events import Evaluation, Event
from batchyard.training.group import joined
from batchyard.training.loop import train
from batchyard.training.spec import TrainingJobSpec
from bench import report
from bench.training_engine import Stopwatch, context_of, finish

TARGET, BAR = 0.94, 5.0
ROUNDS = 5
JOB: Mapping[str, Any] = {
    "name": "to-94",
    "model": {"architecture": "airbench", "activation": "gelu"},
    "data": {"dataset": "cifar10", "batch_size": 1000, "augment": {"flip": True, "crop": 2}},
    "epochs": 12,
    "optimizer": {"name": "sgd", "learning_rate": 8.0, "momentum": 0.85, "nesterov": True, "weight_decay": 0.0015},
    "schedule": {"name": "one_cycle", "initial_factor": 0.2, "rise": 0.23, "final_factor": 0.05},
    "label_smoothing": 0.2,
    "precision": "bf16",
    "channels_last": True,
    "compile": True,
    "metrics": {"every_steps": 50, "activation_statistics": False},
    "evaluate": {"every_steps": 50},
}


def rows(folders: Sequence[str]) -> list[report.Row]:
    """One row, if every round reaches the target. CIFAR-10 is looked for in the `folders`; raises DataError."""
    if not torch.cuda.is_available():
        print("to 94%: left out, torch finds no CUDA device")
        return []
    dataset = data.load("cifar10", folders)
    seconds = [seconds_to(TARGET, dataset, "cuda", seed=seed) for seed in range(ROUNDS)]
    reached = [each for each in seconds if each is not None]
    if len(reached) < len(seconds):
        print(f"to 94%: left out, {len(reached)} of {len(seconds)} rounds reached it")
        return []
    name = f"1 GPU, {dataset.name} to {TARGET:.0%}, median of {ROUNDS}"
    taken = statistics.median(reached)
    return [report.Row(name=name, ours=taken, peer="bar", peer_value=BAR, unit="s", bar=1.0)]


def seconds_to(target: float, dataset: Dataset, device: str, **job: Any) -> float | None:
    """Of training until held-out accuracy reaches `target`; None where it never does. `job`: keys to replace."""
    spec = TrainingJobSpec.from_mapping({**JOB, "stop_at": {"accuracy": target}, **job})
    events: list[Event] = []
    stopwatch = Stopwatch(time.perf_counter, lambda: finish(device), first=1)
    context = context_of(spec, device=device, stop_requested=stopwatch, emit=events.append)
    with joined(context) as group:
        train(context, group, worker.prepare(context, group, dataset))
        seconds = stopwatch.seconds()
    best = max(event.accuracy for event in events if isinstance(event, Evaluation))
    return seconds if best >= target else None

"""The engine on one CUDA device against a bare loop: bf16, channels_last, compiled. A part of bench/training.py.

The bare loop keeps the whole dataset on the device as bytes, as the engine does, and uses torch's own layers, once with
nn.BatchNorm and once with torch.nn.SyncBatchNorm. Compilation is not counted.
Without a device there are no rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from batchyard.data import Dataset
from bench import report
from bench.training_engine import EVERY, LEARNING_RATE, Case, engine, finish, residual, shuffled

BAR = 0.97
FAST = {"precision": "bf16", "channels_last": True, "compile": True}


def _case(name: str, architecture: str, shape: tuple[int, int, int], batch: int, steps: int, classes: int) -> Case:
    return Case(
        name=f"{name}, batch {batch}, bf16 channels_last compiled",
        model={"architecture": architecture, "activation": "relu"},
        shape=shape,
        batch=batch,
        steps=steps,
        samples=16 * batch,
        classes=classes,
        dataset="cifar10",
        job=FAST,
        by_hand=lambda: residual(architecture, shape, classes),
    )


CASES = [
    _case("ResNet-18 for 32x32", "resnet18", (3, 32, 32), 128, 400, 10),
    _case("ResNet-50, synthetic 224x224", "resnet50", (3, 224, 224), 128, 100, 1000),
]
PEERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "bare loop, nn.BatchNorm": lambda network: network,
    "bare loop, torch.nn.SyncBatchNorm": nn.SyncBatchNorm.convert_sync_batchnorm,
}


def rows(rounds: int) -> list[report.Row]:
    """One row for each network and peer."""
    if not torch.cuda.is_available():
        return []
    return [row for case in CASES for row in _rows(case, rounds)]


def _rows(case: Case, rounds: int) -> list[report.Row]:
    dataset, clock = case.data(), time.perf_counter
    contenders: dict[str, Callable[[], float]] = {"engine": lambda: engine(case, dataset, clock, "cuda")}
    for name, convert in PEERS.items():
        contenders[name] = lambda convert=convert: bare_loop(case, dataset, convert)  # type: ignore[misc]
    for contender in contenders.values():
        contender()
    measured = report.alternate(contenders, rounds)
    name = f"1 GPU, {case.name}"
    return [report.compare(name, measured, "engine", peer, unit="samples/s", bar=BAR) for peer in PEERS]


def bare_loop(case: Case, dataset: Dataset, convert: Callable[[nn.Module], nn.Module]) -> float:
    """Samples a second of a training loop as a page of a tutorial has it, on the GPU."""
    network = convert(case.by_hand()).to("cuda").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = cast(nn.Module, torch.compile(network))
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, fused=True)
    mean, std = (255 * torch.tensor(each, device="cuda").view(-1, 1, 1) for each in (dataset.mean, dataset.std))
    images, labels = (torch.tensor(each, device="cuda") for each in (dataset.train.images, dataset.train.labels))
    batches = shuffled(images, labels, case.batch)
    losses = torch.zeros((), device="cuda")
    for step in range(1 - WARM_UP, case.steps + 1):
        if step == 1:
            finish("cuda")
            began = time.perf_counter()
        chosen, truth = next(batches)
        pixels = ((chosen.float() - mean) / std).contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(model(pixels), truth)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses += loss.detach()
        if step % EVERY == 0:
            losses.item()
            losses.zero_()
    finish("cuda")
    return case.steps * case.batch / (time.perf_counter() - began)


WARM_UP = 3
"""Steps in which the bare loop's network is compiled; the engine compiles before its first step."""

"""SyncBatchNorm over several workers against a naive synchronised BN. A part of bench/nn.py.

Over gloo on this machine's cores, or over NCCL on one GPU each, where the peer is torch.nn.SyncBatchNorm. Every worker
makes the same calls in the same order, so that collectives match; the times are those of rank 0.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from batchyard import models
from batchyard.models.blocks import Branches
from batchyard.nn import SyncBatchNorm
from bench import nn_group, report
from bench.naive_sync import NaiveSyncBatchNorm
from bench.nn_layers import Case, forward_backward

BAR = 1.0
"""Never slower than what people write by hand."""
SIZES = (2, 3, 4)
CPU_CASES = [Case((60, 100)), Case((240, 100)), Case((12, 64, 56, 56)), Case((12, 64, 56, 56), torch.channels_last)]
CUDA_CASES = [Case((384, 256, 56, 56), torch.channels_last), Case((384, 2048, 7, 7), torch.channels_last)]
"""The whole batch; every worker has an equal share of it."""
MLP_STEP = "step of the MLP 784-100-100-100-10 under DDP, batch 60"
INCEPTION_STEP = "step of BN-Inception, width 0.25, under DDP, batch 8 at 32x32, branches sharing collectives"
"""On two workers: 33 collectives in each direction instead of 69."""
APART = "69 collectives each way"
SLICE_SECONDS, SLICES = 0.01, 3
"""A turn of each contender, and turns for each round asked for: short and many, because where threads outnumber cores
the scheduler's moods last longer than a call."""
Results = dict[str, report.Rounds]


def rows(rounds: int) -> list[report.Row]:
    """Rows of gloo workers on this machine's cores."""
    return _rows(rounds, SIZES, "cpu", "naive all-gather SyncBN")


def cuda_rows(rounds: int, sizes: list[int]) -> list[report.Row]:
    """Rows of NCCL workers, one for each GPU; none where there is only one."""
    return _rows(rounds, tuple(sizes), "cuda", "torch.nn.SyncBatchNorm")


def _rows(rounds: int, sizes: tuple[int, ...], device: str, peer: str) -> list[report.Row]:
    found = []
    for size in sizes:
        for case, measured in start_workers(size, device, rounds).items():
            name, other = f"{size} workers, {device}, {case}", APART if case == INCEPTION_STEP else peer
            measured[other] = measured.pop("peer")
            found.append(report.compare(name, measured, "ours", other, unit="us", bar=BAR, scale=1e6))
    return found


def start_workers(size: int, device: str, rounds: int) -> Results:
    """Runs a group of `size` workers to its end and returns what rank 0 measured."""
    results: Results = nn_group.start("bench.nn_ranks", size, device, rounds)
    return results


def main() -> None:
    """One worker."""
    nn_group.member(__doc__, _measure)


def _measure(device: str, rounds: int) -> Results:
    peer: Callable[[int], nn.Module] = NaiveSyncBatchNorm if device == "cpu" else nn.SyncBatchNorm
    kinds: dict[str, Callable[[int], nn.Module]] = {"ours": SyncBatchNorm, "peer": peer}
    results = {}
    for case in CPU_CASES if device == "cpu" else CUDA_CASES:
        share = Case((case.shape[0] // dist.get_world_size(), *case.shape[1:]), case.memory_format)
        layers, x = {name: kind(case.shape[1]).to(device) for name, kind in kinds.items()}, share.input(device)
        _require_equal([layer(x) for layer in layers.values()])
        calls = {name: forward_backward(layer, x) for name, layer in layers.items()}
        results[str(case)] = _alternate(calls, rounds * SLICES, device)
    steps = {name: _mlp_step(kind, device) for name, kind in kinds.items()}
    results[MLP_STEP] = _alternate(steps, rounds * SLICES, device)
    if device == "cpu" and dist.get_world_size() == 2:
        steps = {"ours": _inception_step(device, apart=False), "peer": _inception_step(device, apart=True)}
        # A call takes a fifth of a second.
        results[INCEPTION_STEP] = _alternate(steps, max(report.LEAST_ROUNDS, rounds // 3), device)
    return results


def _require_equal(outputs: list[Tensor]) -> None:
    """Both must compute the same before it matters which is faster."""
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-3)


def _alternate(calls: Mapping[str, Callable[[], object]], rounds: int, device: str) -> report.Rounds:
    timers = {name: _timer(call, device) for name, call in calls.items()}
    return report.alternate(timers, rounds)


def _timer(call: Callable[[], object], device: str) -> Callable[[], float]:
    """As report.timer, but every worker makes as many calls as rank 0 chose, and they begin together."""

    def measure(count: int) -> float:
        dist.barrier()
        began = time.perf_counter()
        for _ in range(count):
            call()
        if device != "cpu":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / count

    measure(3)
    count = torch.tensor(max(1, round(SLICE_SECONDS / measure(5))), device=device)
    dist.broadcast(count, 0)
    agreed = int(count)
    return lambda: measure(agreed)


def _mlp_step(kind: Callable[[int], nn.Module], device: str) -> Callable[[], object]:
    """A training step of the paper's MNIST network with one of the layers, gradients reduced by DDP."""
    network = models.build("mlp", models.Plan(image_shape=(1, 28, 28), classes=10), seed=0)
    for name, layer in list(network.named_children()):
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            setattr(network, name, kind(layer.num_features))
    return _step(network, (60, 1, 28, 28), device)


class _Apart(nn.Module):
    """Branches whose normalisations each make collectives of their own."""

    def __init__(self, branches: Branches) -> None:
        super().__init__()
        self._modules = branches._modules

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.children()], 1)


def _inception_step(device: str, *, apart: bool) -> Callable[[], object]:
    """A training step of the paper's Inception, small, with its branches as they are or apart."""
    network = models.build("inception_bn", models.Plan(image_shape=(3, 32, 32), classes=10, width=0.25), seed=0)
    for name, block in list(network.named_children()):
        if apart and isinstance(block, Branches):
            setattr(network, name, _Apart(block))
    return _step(network, (8, 3, 32, 32), device)


def _step(network: nn.Module, batch: tuple[int, ...], device: str) -> Callable[[], object]:
    """A training step over `batch`, images of all workers together; gradients reduced by DDP."""
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch 2.13 renames the setting
        model = DistributedDataParallel(network.to(device), broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=True)
    share = batch[0] // dist.get_world_size()
    x, labels = torch.randn(share, *batch[1:], device=device), torch.randint(0, 10, (share,), device=device)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


if __name__ == "__main__":
    main()

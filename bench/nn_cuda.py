"""One BN layer on a CUDA device, against nn.BatchNorm and torch.nn.SyncBatchNorm. A part of bench/nn.py.

On one device there is nothing to synchronise, and torch.nn.SyncBatchNorm runs nn.BatchNorm's kernels. Where there are
two devices or more, bench/nn_ranks.py adds NCCL workers. Without a device there are no rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from batchyard.nn import SyncBatchNorm
from bench import nn_ranks, report
from bench.nn_layers import Case, forward_backward

BAR = 1.05
BATCH = 128
SHAPES = [(64, 112, 112), (64, 56, 56), (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)]
"""Inputs of the BN layers of a ResNet-50 at 224x224: channels, height, width."""
CASES = [Case((BATCH, *shape), torch.channels_last) for shape in SHAPES]
DTYPES = (torch.bfloat16, torch.float32)
MODES = ("eager", "compiled")
SLICE_SECONDS = 0.02
PEERS: dict[str, Callable[[Case], nn.Module]] = {
    "nn.BatchNorm": lambda case: case.batch_norm(),
    "torch.nn.SyncBatchNorm": lambda case: nn.SyncBatchNorm(case.shape[1]),
}


def rows(rounds: int) -> list[report.Row]:
    """For each shape, dtype, and eager or compiled: one row against each peer."""
    if not torch.cuda.is_available():
        print("cuda: left out, torch finds no CUDA device")
        return []
    found = [row for dtype in DTYPES for case in CASES for row in case_rows(case, dtype, rounds, "cuda")]
    several = [size for size in nn_ranks.SIZES if size <= torch.cuda.device_count()]
    return found + nn_ranks.cuda_rows(rounds, several)


def case_rows(
    case: Case, dtype: torch.dtype, rounds: int, device: str, modes: tuple[str, ...] = MODES
) -> list[report.Row]:
    """One row for each mode and peer."""
    found = []
    contenders = {"ours": lambda case: SyncBatchNorm(case.shape[1]), **PEERS}
    for mode in modes:
        torch.compiler.reset()
        x = case.input(device, dtype)
        timers = {name: _timer(make(case), x, mode) for name, make in contenders.items()}
        measured = report.alternate(timers, rounds)
        name = f"{device}, {str(dtype).removeprefix('torch.')}, {mode}, {case}"
        found += [report.compare(name, measured, "ours", peer, unit="us", bar=BAR, scale=1e6) for peer in PEERS]
    return found


def _timer(layer: nn.Module, x: Tensor, mode: str) -> Callable[[], float]:
    ready = torch.compile(layer, fullgraph=True) if mode == "compiled" else layer
    finish = torch.cuda.synchronize if x.is_cuda else lambda: None
    call = forward_backward(cast(nn.Module, ready), x)
    return report.timer(call, seconds=SLICE_SECONDS, clock=time.perf_counter, finish=finish)

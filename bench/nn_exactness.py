"""How far several workers are from one process: largest errors against the concatenated batch. A part of bench/nn.py.

Two to four gloo workers hold shares of a batch, one of them often none; the reference is nn.BatchNorm in fp64 on all of
it. Inputs in 16 bits count as what they were rounded to, so that the error is ours alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from batchyard.nn import SyncBatchNorm
from bench import nn_group, report

SIZES = (2, 3, 4)
SHAPES = ((37,), (300, 6), (9, 8, 7), (5, 30, 31), (3, 6, 5, 4))
"""Of a sample: channels first."""
SHARES = ((0.6, 0.4), (0.1, 0.9), (0.0, 1.0), (0.5, 0.0, 0.3, 0.2))
"""Of the batch; the last of them that there are workers for takes what is left."""
SAMPLES = 64
EPS = 1e-5
QUANTITIES = ("y", "dx", "running_mean", "running_var")


@dataclass(frozen=True)
class Precision:
    """A dtype, at means so many standard deviations from zero, and what is asked of it."""

    dtype: torch.dtype
    ratios: tuple[float, ...]
    bars: tuple[float, ...] | None
    """Of y, in its largest value; of dx, in the largest of its terms gamma / s * dy; of the running mean, in standard
    deviations, and of the running variance, in itself. None: shown for information."""

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}, |mean| / std up to {max(self.ratios):g}"


def _rounding(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


PRECISIONS = (
    Precision(torch.float64, (0, 3), (1e-12, 1e-12, 1e-12, 1e-12)),
    Precision(torch.float64, (1000,), None),
    Precision(torch.float32, (0, 3, 100, 1000), (1e-5, 1e-4, 1e-4, 1e-6)),
    *(Precision(d, (0, 3), (_rounding(d), _rounding(d), 1e-6, 1e-6)) for d in (torch.float16, torch.bfloat16)),
)
"""DESIGN's bars. The fp64 sums lose the square of the ratio: 1e-10 at 1000. Statistics of 16 bits are fp32; an fp32
running mean at 1000 standard deviations is rounded to 1e-4 of one."""


def rows(_: int) -> list[report.Row]:
    """Four rows for each precision: the largest error of all shapes, shares and groups; nothing here is timed."""
    measured = [nn_group.start("bench.nn_exactness", size, "cpu", report.LEAST_ROUNDS) for size in SIZES]
    found = []
    for precision in PRECISIONS:
        bars = precision.bars or (None,) * len(QUANTITIES)
        for quantity, bar in zip(QUANTITIES, bars, strict=True):
            largest = max(errors[str(precision)][quantity] for errors in measured)
            name = f"largest error against the concatenated batch, {precision}, {quantity}"
            found.append(
                report.Row(
                    name=name, ours=largest, peer="bar", peer_value=bar or largest, unit="", bar=1.0 if bar else None
                )
            )
    return found


def main() -> None:
    """One worker."""
    nn_group.member(__doc__, _measure)


def _measure(_device: str, _rounds: int) -> dict[str, dict[str, float]]:
    """The largest errors of all workers, by precision and quantity."""
    results = {}
    for precision in PRECISIONS:
        largest = torch.zeros(len(QUANTITIES), dtype=torch.float64)
        for ratio in precision.ratios:
            for shape in SHAPES:
                for sizes in _sizes():
                    errors = _errors(shape, sizes, ratio, precision.dtype)
                    largest = torch.maximum(largest, errors.nan_to_num(torch.inf))
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        results[str(precision)] = dict(zip(QUANTITIES, largest.tolist(), strict=True))
    return results


def _sizes() -> Iterator[list[int]]:
    """Every worker's samples."""
    workers = dist.get_world_size()
    for shares in SHARES:
        given = [round(SAMPLES * share) for share in shares[: workers - 1]]
        given += [0] * (workers - 1 - len(given))
        yield [*given, SAMPLES - sum(given)]


def _errors(shape: tuple[int, ...], sizes: list[int], ratio: float, dtype: torch.dtype) -> Tensor:
    """The largest error of each quantity on this worker."""
    generator = torch.Generator().manual_seed(0)
    x, dy = torch.randn(2, SAMPLES, *shape, generator=generator, dtype=torch.float64)
    x, dy = (x + ratio).to(dtype), dy.to(dtype)
    ours, whole = _layers(len(shape), shape[0], dtype, generator)
    all_y, all_dx = _step(whole, x.double(), dy.double())
    y, dx = _step(ours, *(_share(t, sizes) for t in (x, dy)))
    (mean, var), (exact_mean, exact_var) = ((bn.running_mean, bn.running_var) for bn in (ours, whole))
    terms = (whole.weight.detach() / exact_var.sqrt()).max() * dy.double().abs().max()
    errors = (
        (y - _share(all_y, sizes)) / all_y.abs().max(),
        (dx - _share(all_dx, sizes)) / terms,
        (mean - exact_mean) / exact_var.sqrt(),
        (var - exact_var) / exact_var,
    )
    return torch.stack([error.abs().max() if error.numel() else torch.zeros(()).double() for error in errors])


def _layers(rank: int, channels: int, dtype: torch.dtype, generator: torch.Generator) -> tuple[Any, Any]:
    """Ours, and the reference in fp64 with the same gamma; both show the batch's statistics as running ones."""
    kinds: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d, 4: nn.BatchNorm3d}
    ours: Any = SyncBatchNorm(channels, EPS, momentum=1.0)
    whole = kinds[rank](channels, EPS, momentum=1.0)
    nn.init.uniform_(ours.weight, 0.5, 2, generator=generator)
    whole.load_state_dict(ours.state_dict())
    return ours.double() if dtype == torch.float64 else ours, whole.double()


def _share(whole: Tensor, sizes: list[int]) -> Tensor:
    return torch.split(whole, sizes)[dist.get_rank()]


def _step(layer: nn.Module, x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    y = layer(x)
    (dx,) = torch.autograd.grad(y, x, dy)
    return y.detach(), dx


if __name__ == "__main__":
    main()

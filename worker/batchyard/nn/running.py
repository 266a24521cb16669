"""Running statistics: moved towards each batch's, unless the batch was poisoned."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Pairs = Sequence[tuple[Tensor, Tensor]]
"""Each running statistic and the batch's, which has no gradient."""


def move_towards(statistics: Pairs, tracked: Tensor, skipped: Tensor, momentum: float | None) -> None:
    """Moves each running statistic towards that of the batch, in place; all stay where one of the batch is not finite.

    Args:
        statistics: pairs of a running statistic and the batch's.
        tracked: counts the batches that were taken in.
        skipped: counts those that were not.
        momentum: weight of the batch; None: all batches weigh the same.

    Makes no host sync on a GPU and can be compiled.
    """
    move = _by_host if tracked.device.type == "cpu" and not torch.compiler.is_compiling() else _on_device
    move(statistics, tracked, skipped, momentum)


def _by_host(statistics: Pairs, tracked: Tensor, skipped: Tensor, momentum: float | None) -> None:
    """Looks at the values, which on a CPU are at hand: a third of the operations."""
    # Smaller than what is infinite in the dtype of the running statistics, which may be narrower than the batch's.
    if not all(_largest(batch) <= torch.finfo(running.dtype).max for running, batch in statistics):
        skipped.add_(1)
        return
    tracked.add_(1)
    step = momentum if momentum is not None else 1.0 / tracked.item()
    for running, batch in statistics:
        running.lerp_(batch.to(running.dtype), step)


def _largest(values: Tensor) -> float:
    """The largest absolute value; NaN where one is."""
    return float(torch.linalg.vector_norm(values, math.inf))


def _on_device(statistics: Pairs, tracked: Tensor, skipped: Tensor, momentum: float | None) -> None:
    """Looks at nothing: the decision is a tensor too."""
    finite = torch.stack([torch.isfinite(batch.to(running.dtype)).all() for running, batch in statistics]).all()
    tracked.add_(finite)
    skipped.add_(~finite)
    step = momentum if momentum is not None else 1.0 / tracked.clamp(min=1)
    for running, batch in statistics:
        running.copy_(torch.where(finite, running + step * (batch - running), running))

"""Running statistics: moved towards each batch's, unless the batch was poisoned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def move_towards(
    statistics: Sequence[tuple[Tensor, Tensor]], tracked: Tensor, skipped: Tensor, momentum: float | None
) -> None:
    """Moves each running statistic towards that of the batch, in place; all stay where one of the batch is not finite.

    Args:
        statistics: pairs of a running statistic and the batch's.
        tracked: counts the batches that were taken in.
        skipped: counts those that were not.
        momentum: weight of the batch; None: all batches weigh the same.

    Makes no host sync.
    """
    finite = torch.stack([torch.isfinite(batch).all() for _, batch in statistics]).all()
    tracked.add_(finite)
    skipped.add_(~finite)
    step = momentum if momentum is not None else 1.0 / tracked.clamp(min=1)
    for running, batch in statistics:
        running.copy_(torch.where(finite, running + step * (batch - running), running))

"""NaiveSyncBatchNorm: synchronised BN as people write it by hand: gather everyone's moments, then plain arithmetic.

The peer of bench/nn.py on CPU workers, where torch.nn.SyncBatchNorm refuses to run. Autograd derives the backward pass.
The variance is E[x^2] - E[x]^2 in the input's dtype, and every worker must hold as many samples as any other.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


class NaiveSyncBatchNorm(_BatchNorm):
    """nn.BatchNorm over the batch that all workers hold; for (N, C) and (N, C, ...)."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name that nn.BatchNorm gives it
        """Normalises `input`, in training mode with the moments of all workers."""
        assert self.running_mean is not None
        assert self.running_var is not None
        shape = [1, -1, *[1] * (input.dim() - 2)]
        if self.training:
            mean, var = _global_moments(input)
            count = input.numel() // input.shape[1] * dist.get_world_size()
            with torch.no_grad():
                self.running_mean.lerp_(mean, cast(float, self.momentum))
                self.running_var.lerp_(var * (count / (count - 1)), cast(float, self.momentum))
        else:
            mean, var = self.running_mean, self.running_var
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return input * scale.view(shape) + shift.view(shape)


def _global_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel, [C], over all workers."""
    dims = [d for d in range(x.dim()) if d != 1]
    local = torch.cat([x.mean(dims), (x * x).mean(dims)])
    summed = cast(Tensor, _GatheredSum.apply(local))  # type: ignore[no-untyped-call]
    mean, mean_of_squares = (summed / dist.get_world_size()).chunk(2)
    return mean, mean_of_squares - mean * mean


class _GatheredSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        gathered = [torch.empty_like(value) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, value)
        return torch.stack(gathered).sum(0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total

"""Algorithm 1 over a batch that several workers hold: forward, backward and double backward.

y = gamma * (x - mu) / s + beta with s = sqrt(sigma^2 + eps). Per channel the gradient is affine in dy and x:

    dx = a * dy + b * (x - mu) + c,   a = gamma / s,   b = -(a / s) * sum(dy * xhat) / m,   c = -a * sum(dy) / m

where both sums and m run over all workers. dgamma = sum(dy * xhat) and dbeta = sum(dy) are this worker's shares, which
data-parallel gradient reduction adds up like every other gradient.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from batchyard.nn.collectives import all_sum, sum_together
from batchyard.nn.moments import (
    Centred,
    Moments,
    _dense,
    averaged_dims,
    centred,
    channel_shape,
    pack_centred,
    statistics_dtype,
    unpack,
)


class Branch(NamedTuple):
    """What one BN layer is to normalise, and its settings."""

    x: Tensor
    """This worker's share of the batch, (N, C, ...); may be empty."""
    weight: Tensor | None
    bias: Tensor | None
    eps: float


def synced_batch_norms(branches: Sequence[Branch], group: dist.ProcessGroup | None) -> list[tuple[Tensor, Moments]]:
    """Normalises each branch by the moments of the batch that all workers of `group` hold together.

    Returns each branch's y and moments. One collective forward and one backward, however many branches there are; every
    worker of the group must call it, with branches of the same channels.
    """
    with torch.no_grad():
        inputs = [centred(branch.x) for branch in branches]
        packed = sum_together([pack_centred(*values) for values in inputs], group)
        moments = [unpack(total) for total in packed]
    eps = [branch.eps for branch in branches]
    differentiable = [tensor for branch in branches for tensor in branch[:3]]
    ys = _SyncedBatchNorms.apply(group, eps, inputs, moments, *differentiable)  # type: ignore[no-untyped-call]
    return list(zip(ys, moments, strict=True))


def synced_batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: dist.ProcessGroup | None
) -> tuple[Tensor, Moments]:
    """`synced_batch_norms` of a single branch."""
    return synced_batch_norms([Branch(x, weight, bias, eps)], group)[0]


class _Saved(NamedTuple):
    """What backward needs of one branch; statistics in fp64."""

    x: Tensor
    weight: Tensor | None
    total: Tensor
    mean: Tensor
    invstd: Tensor
    a: Tensor
    eps: float


_SETTINGS = 4
"""Arguments of the function below that are not tensors; then come x, weight and bias of every branch."""


class _SyncedBatchNorms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        group: dist.ProcessGroup | None,
        eps: list[float],
        inputs: list[Centred],
        moments: list[Moments],
        *given: Tensor | None,
    ) -> tuple[Tensor, ...]:
        ys, saved = [], []
        for i, (centred_x, (count, mean, var)) in enumerate(zip(inputs, moments, strict=True)):
            x, weight, bias = given[3 * i : 3 * i + 3]
            assert x is not None
            invstd = (var + eps[i]).rsqrt_()
            a = invstd if weight is None else invstd * weight
            shift = torch.addcmul(torch.zeros_like(a) if bias is None else bias, centred_x.offset(mean), a, value=-1)
            ys.append(_scale_and_shift(centred_x.values, a, shift).to(x.dtype))
            saved += [x, weight, count, mean, invstd, a]
        ctx.save_for_backward(*saved)
        ctx.group, ctx.eps = group, eps
        ctx.set_materialize_grads(False)
        return tuple(ys)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor | None) -> tuple[Tensor | None, ...]:
        saved, each = ctx.saved_tensors, len(_Saved._fields) - 1
        branches = [_Saved._make([*saved[i * each : (i + 1) * each], eps]) for i, eps in enumerate(ctx.eps)]
        # Where a branch goes nowhere the other workers still wait in the collective.
        given = [torch.zeros_like(b.x) if dy is None else dy for dy, b in zip(dys, branches, strict=True)]
        backward = _differentiable_backward if torch.is_grad_enabled() else _backward
        gradients = itertools.chain(*backward(given, branches, ctx.group))
        wanted = ctx.needs_input_grad[_SETTINGS:]
        return *[None] * _SETTINGS, *(g if needed else None for g, needed in zip(gradients, wanted, strict=True))


def _scale_and_shift(values: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Values * scale + shift per channel, in place.

    Two operations: torch has no fast kernel for both at once where channels are not the last dimension in memory.
    """
    shape, dtype = channel_shape(values), values.dtype
    return values.mul_(scale.to(dtype).view(shape)).add_(shift.to(dtype).view(shape))


Gradients = tuple[Tensor, Tensor, Tensor]
"""By x, gamma and beta; autograd casts them to the dtype of each and drops those that nobody needs."""


def _backward(dys: list[Tensor], branches: list[_Saved], group: dist.ProcessGroup | None) -> list[Gradients]:
    inputs = [centred(branch.x, near=branch.mean) for branch in branches]
    # The CUDA kernel takes dy as it comes.
    dys = [dy if dy.is_cuda else dy.to(x.values.dtype) for dy, x in zip(dys, inputs, strict=True)]
    shares = [_local_sums(*of_branch) for of_branch in zip(dys, inputs, branches, strict=True)]
    totals = sum_together(shares, group)
    results: list[Gradients] = []
    for dy, x, branch, share, summed in zip(dys, inputs, branches, shares, totals, strict=True):
        mean_dy_xhat, mean_dy = (summed / branch.total).chunk(2)
        minus_a, slope = -branch.a, branch.invstd * mean_dy_xhat
        shift = torch.addcmul(mean_dy, slope, x.offset(branch.mean), value=-1)
        dx = _scale_and_shift(x.values, slope.mul_(minus_a), shift.mul_(minus_a))
        a = branch.a.to(dx.dtype).view(channel_shape(dx))
        dgamma, dbeta = share.chunk(2)
        results.append((dx.addcmul_(dy.to(dx.dtype), a), dgamma, dbeta))
    return results


def _local_sums(dy: Tensor, x: Centred, branch: _Saved) -> Tensor:
    """The shares of this worker in sum(dy * xhat) and sum(dy), fp64 [2C]."""
    values, dims = x.values, averaged_dims(dy)
    if dy.is_cuda and dy.numel():
        mean, invstd = branch.mean.to(values.dtype), branch.invstd.to(values.dtype)
        _, _, dgamma, dbeta = torch.batch_norm_backward_reduce(
            _dense(dy), _dense(branch.x), mean, invstd, torch.ones_like(mean), False, True, True
        )
        return torch.cat([dgamma, dbeta]).double()
    dy = dy.to(values.dtype)
    sum_dy = dy.sum(dims).double()
    sum_dy_values = (dy * values).sum(dims).double()
    sum_dy_centred = torch.addcmul(sum_dy_values, sum_dy, x.offset(branch.mean), value=-1)
    return torch.cat([sum_dy_centred.mul_(branch.invstd), sum_dy])


def _differentiable_backward(
    dys: list[Tensor], branches: list[_Saved], group: dist.ProcessGroup | None
) -> list[Gradients]:
    """The same gradients from differentiable operations, moments included, for a backward pass of the backward pass."""
    pairs = zip(dys, branches, strict=True)
    return [_differentiable_gradients(dy, b.x, b.weight, b.eps, group) for dy, b in pairs]


def _differentiable_gradients(
    dy: Tensor, x: Tensor, weight: Tensor | None, eps: float, group: dist.ProcessGroup | None
) -> Gradients:
    dtype = statistics_dtype(x)
    shape, channels, dims = channel_shape(x), x.shape[1], averaged_dims(x)
    values, dy = x.to(dtype), dy.to(dtype)
    counted = values.new_full((1,), x.numel() // channels if x.numel() else 0)
    total = all_sum(torch.cat([values.sum(dims), counted]), group)
    count = total[-1]
    centred_values = values - (total[:-1] / count).view(shape)
    invstd = (all_sum((centred_values * centred_values).sum(dims), group) / count + eps).rsqrt()
    xhat = centred_values * invstd.view(shape)
    dgamma, dbeta = (dy * xhat).sum(dims), dy.sum(dims)
    sum_dy_xhat, sum_dy = (all_sum(torch.cat([dgamma, dbeta]), group) / count).chunk(2)
    a = invstd if weight is None else invstd * weight.to(dtype)
    dx = (dy - sum_dy.view(shape) - xhat * sum_dy_xhat.view(shape)) * a.view(shape)
    return dx, dgamma, dbeta

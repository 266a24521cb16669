"""Algorithm 1 over a batch that several workers hold: forward, backward and double backward.

y = gamma * (x - mu) / s + beta with s = sqrt(sigma^2 + eps). Per channel the gradient is affine in dy and x:

    dx = a * dy + b * (x - mu) + c,   a = gamma / s,   b = -(a / s) * sum(dy * xhat) / m,   c = -a * sum(dy) / m

where both sums and m run over all workers. dgamma = sum(dy * xhat) and dbeta = sum(dy) are this worker's shares, which
data-parallel gradient reduction adds up like every other gradient.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from batchyard.nn.moments import _dense, batch_moments, channel_shape, statistics_dtype, world_size


def synced_batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalises `x` (N, C, ...) by the moments of the batch that all workers of `group` hold together.

    Returns y, and fp64 without gradient: mean [C], unbiased variance [C] and sample count. One collective forward, one
    backward; every worker of the group must call it, with its share of the batch, which may be empty.
    """
    y, mean, unbiased_var, count = _SyncedBatchNorm.apply(x, weight, bias, eps, group)  # type: ignore[no-untyped-call]
    return y, mean, unbiased_var, count


class _SyncedBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: dist.ProcessGroup | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        moments = batch_moments(x, group)
        dtype = statistics_dtype(x)
        invstd = (moments.var + eps).rsqrt()
        scale = invstd if weight is None else invstd * weight.double()
        mean = moments.mean.to(dtype)
        # What rounding mu to fp32 loses goes into the shift: y stays exact to fp32 where |mu| >> sigma.
        shift = (mean.double() - moments.mean) * scale
        if bias is not None:
            shift = shift + bias.double()
        y = _scale_and_shift(x, mean, scale.to(dtype), shift.to(dtype))
        ctx.save_for_backward(x, weight, bias, moments.total, moments.mean, moments.var)
        ctx.eps, ctx.group = eps, group
        unbiased_var = moments.unbiased_var
        ctx.mark_non_differentiable(moments.mean, unbiased_var, moments.total)
        ctx.set_materialize_grads(False)
        return y, moments.mean, unbiased_var, moments.total

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, bias, count, mean, var = ctx.saved_tensors
        if dy is None:
            dy = torch.zeros_like(x)  # the other workers wait in the collective
        if torch.is_grad_enabled():
            dx, dgamma, dbeta = _differentiable_backward(dy, x, weight, ctx.eps, ctx.group)
        else:
            dx, dgamma, dbeta = _backward(dy, x, weight, count, mean, var, ctx.eps, ctx.group)
        dweight = None if weight is None else dgamma.to(weight.dtype)
        dbias = None if bias is None else dbeta.to(bias.dtype)
        return dx, dweight, dbias, None, None


def _scale_and_shift(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(x - mean) * scale + shift per channel, in the dtype of the statistics, returned in that of `x`."""
    shape = channel_shape(x)
    out = x - mean.view(shape)
    return torch.addcmul(shift.view(shape), out, scale.view(shape), out=out).to(x.dtype)


def _backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    count: Tensor,
    mean: Tensor,
    var: Tensor,
    eps: float,
    group: dist.ProcessGroup | None,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = statistics_dtype(x)
    dgamma, dbeta = _local_sums(dy, x, mean.to(dtype), var.to(dtype), eps)
    sums = torch.cat([dgamma, dbeta]).double()
    if world_size(group) > 1:
        dist.all_reduce(sums, group=group)
    sum_dy_xhat, sum_dy = (sums / count).chunk(2)
    invstd = (var + eps).rsqrt()
    a = invstd if weight is None else invstd * weight.double()
    b = -a * invstd * sum_dy_xhat
    c = -a * sum_dy + b * (mean.to(dtype).double() - mean)  # the second term: mu's rounding, as in forward
    shape = channel_shape(x)
    dx = _scale_and_shift(x.to(dtype), mean.to(dtype), b.to(dtype), c.to(dtype))
    return dx.addcmul_(dy.to(dtype), a.to(dtype).view(shape)).to(x.dtype), dgamma, dbeta


def _local_sums(dy: Tensor, x: Tensor, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The shares of this worker in sum(dy * xhat) and sum(dy), per channel."""
    if not x.numel():
        return torch.zeros_like(mean), torch.zeros_like(mean)
    if x.is_cuda:
        invstd = (var + eps).rsqrt()
        _, _, dgamma, dbeta = torch.batch_norm_backward_reduce(
            _dense(dy), _dense(x), mean, invstd, torch.ones_like(mean), False, True, True
        )
        return dgamma, dbeta
    _, dgamma, dbeta = torch.ops.aten.native_batch_norm_backward(
        dy, x, torch.ones_like(mean), mean, var, None, None, False, eps, [False, True, True]
    )
    return dgamma, dbeta


def _differentiable_backward(
    dy: Tensor, x: Tensor, weight: Tensor | None, eps: float, group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The same gradients from differentiable operations, moments included, for a backward pass of the backward pass."""
    dtype = statistics_dtype(x)
    shape, channels = channel_shape(x), x.shape[1]
    dims = [d for d in range(x.dim()) if d != 1]
    values, dy = x.to(dtype), dy.to(dtype)
    counted = values.new_full((1,), x.numel() // channels if x.numel() else 0)
    total = all_sum(torch.cat([values.sum(dims), counted]), group)
    count = total[-1]
    centred = values - (total[:-1] / count).view(shape)
    invstd = (all_sum((centred * centred).sum(dims), group) / count + eps).rsqrt()
    xhat = centred * invstd.view(shape)
    dgamma, dbeta = (dy * xhat).sum(dims), dy.sum(dims)
    sum_dy_xhat, sum_dy = (all_sum(torch.cat([dgamma, dbeta]), group) / count).chunk(2)
    a = invstd if weight is None else invstd * weight.to(dtype)
    dx = (dy - sum_dy.view(shape) - xhat * sum_dy_xhat.view(shape)) * a.view(shape)
    return dx.to(x.dtype), dgamma, dbeta


def all_sum(value: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The sum over all workers; its gradient is the sum of all workers' gradients."""
    if world_size(group) == 1:
        return value
    return cast(Tensor, _AllSum.apply(value, group))  # type: ignore[no-untyped-call]


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        total = value.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None

"""Batch moments: measured on one worker, packed, summed over all workers in one collective.

Notation of the paper (arXiv 1502.03167, Algorithm 1): mu and sigma^2 are mean and biased variance of one channel
over the batch, m its sample count. A channel is dimension 1; every other dimension is averaged over.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Moments(NamedTuple):
    """The moments of one batch over all workers, in fp64; per channel, shape [C], but for the count."""

    total: Tensor
    """m, a scalar: samples per channel over all workers."""
    mean: Tensor
    """mu."""
    var: Tensor
    """sigma^2, biased: divided by m."""

    @property
    def unbiased_var(self) -> Tensor:
        """sigma^2 * m / (m - 1); for a single sample sigma^2 itself, which is 0."""
        return self.var * (self.total / (self.total - 1).clamp(min=1))


def statistics_dtype(x: Tensor) -> torch.dtype:
    """The dtype that statistics of `x` are computed in: fp64 for fp64, fp32 for everything narrower."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def channel_shape(x: Tensor) -> list[int]:
    """The shape that lets a [C] tensor broadcast over `x`: [1, C, 1, ...]."""
    return [1, x.shape[1], *[1] * (x.dim() - 2)]


def world_size(group: dist.ProcessGroup | None) -> int:
    """Workers in `group` (None: all); 1 where no process group was started."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size(group)


def local_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel of this worker's `x`, by torch's own kernels; `x` must not be empty."""
    dtype = statistics_dtype(x)
    if x.is_cuda:
        # Without eps the kernel's 1/sigma gives the variance back to a few ulp; with eps it would not.
        mean, invstd = torch.batch_norm_stats(_dense(x), 0.0)
        return mean, invstd.square().reciprocal()
    local: tuple[Tensor, Tensor]
    if x.dtype == dtype:
        local = torch.batch_norm_update_stats(x, None, None, 0.0)
    else:  # for fp16 and bf16, zeros that fix the accumulation dtype; the results come back as new tensors
        mean, var = torch.zeros(2, x.shape[1], dtype=dtype, device=x.device).unbind()
        local = torch.batch_norm_update_stats(x, mean, var, 0.0)
    return local


def exact_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel of this worker's `x`, fp64 [C], right to 1e-6 at any size and mean.

    torch's CPU kernel adds up in fp32 one by one: its mean is off by 1e-6 of itself, a lot where |mu| >> sigma, and its
    variance by 4e-4 over 800,000 samples in channels_last. Here the mean is added up in fp64, and the squares about it
    pairwise in the dtype of the statistics. Rounding their centre adds its error squared, which is taken off again.
    """
    dtype, count = statistics_dtype(x), x.numel() // x.shape[1]
    dims = [d for d in range(x.dim()) if d != 1]
    mean = x.sum(dims, dtype=torch.float64) / count
    if x.is_cuda:
        centre, var = (moment.double() for moment in local_moments(x))
    else:
        centre = mean.to(dtype)
        var = (x - centre.view(channel_shape(x))).square_().sum(dims).double() / count
    return mean, (var - (centre - mean).square()).clamp(min=0)


def pack(x: Tensor) -> Tensor:
    """Additive moments of this worker, fp64 [2C + 1]: m * mu, m * (sigma^2 + mu^2), m. An empty `x` packs to zeros.

    Sums of squares lose the variance to cancellation in fp32 (a quarter of it at |mu|/sigma = 1000); in fp64 they keep
    1e-10 of it there, and they add up whatever the workers' shares are, in one collective of fixed size.
    """
    channels = x.shape[1]
    packed = torch.zeros(2 * channels + 1, dtype=torch.float64, device=x.device)
    if x.numel():
        count = x.numel() // channels
        mean, var = exact_moments(x)
        torch.mul(mean, count, out=packed[:channels])
        torch.mul(torch.addcmul(var, mean, mean), count, out=packed[channels:-1])
        packed[-1] = count
    return packed


def unpack(packed: Tensor) -> Moments:
    """Moments from the sum of all workers' `pack`; not finite where the count is 0."""
    channels = (packed.numel() - 1) // 2
    count = packed[-1]
    mean = packed[:channels] / count
    # NaN and infinity pass through clamp: a poisoned batch stays visible.
    var = (packed[channels:-1] / count - mean * mean).clamp(min=0)
    return Moments(count, mean, var)


def batch_moments(x: Tensor, group: dist.ProcessGroup | None) -> Moments:
    """Moments of the batch that the workers of `group` hold together: one all-reduce of 8 * (2C + 1) bytes."""
    packed = pack(x)
    if world_size(group) > 1:
        dist.all_reduce(packed, group=group)
    return unpack(packed)


def _dense(x: Tensor) -> Tensor:
    """`x` in a layout that the CUDA kernels know: channels_last as it is, anything else contiguous."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x
    if x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d):
        return x
    return x.contiguous()

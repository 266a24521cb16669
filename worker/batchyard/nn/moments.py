"""Batch moments: measured on one worker, packed, summed over all workers in one collective.

Notation of the paper (arXiv 1502.03167, Algorithm 1): mu and sigma^2 are mean and biased variance of one channel
over the batch, m its sample count. A channel is dimension 1; every other dimension is averaged over.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from batchyard.nn.collectives import sum_over_workers

SMALL = 1 << 15
"""Values up to which a CPU computes in fp64: there starting a kernel costs more than its arithmetic, and fp64, which
needs no centre, needs fewer of them."""


class Moments(NamedTuple):
    """The moments of one batch over all workers, in fp64; per channel, shape [C], but for the count."""

    total: Tensor
    """m, of one element: samples per channel over all workers."""
    mean: Tensor
    """mu."""
    var: Tensor
    """sigma^2, biased: divided by m."""

    @property
    def unbiased_var(self) -> Tensor:
        """sigma^2 * m / (m - 1); for a single sample sigma^2 itself, which is 0."""
        if self.total.is_cpu and not torch.compiler.is_compiling():  # at hand: one operation instead of four
            m = self.total.item()
            return self.var * (m / max(m - 1, 1))
        return self.var * (self.total / (self.total - 1).clamp(min=1))


class Centred(NamedTuple):
    """One worker's input, moved so that its sums and those of its squares can be taken without loss."""

    values: Tensor
    """x - centre, of the shape of x, in the dtype that everything about x is computed in."""
    centre: Tensor | None
    """Near this worker's mean, fp64 [C]; None for 0, where the values are fp64 and few."""

    def offset(self, mean: Tensor) -> Tensor:
        """`mean` as the values have it."""
        return mean if self.centre is None else mean - self.centre


def statistics_dtype(x: Tensor) -> torch.dtype:
    """The dtype that statistics of `x` are computed in: fp64 for fp64, fp32 for everything narrower."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def channel_shape(x: Tensor) -> list[int]:
    """The shape that lets a [C] tensor broadcast over `x`: [1, C, 1, ...]."""
    return [1, x.shape[1], *[1] * (x.dim() - 2)]


def averaged_dims(x: Tensor) -> list[int]:
    """Every dimension but that of the channels."""
    return [0, *range(2, x.dim())]


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


def centred(x: Tensor, near: Tensor | None = None) -> Centred:
    """`x` minus `near`, [C], or minus its own mean; each rounded to the dtype of the statistics. Owns its memory."""
    dtype = statistics_dtype(x)
    if x.numel() <= (0 if x.is_cuda else SMALL):
        return Centred(x.to(torch.float64, copy=True), None)
    centre = x.mean(averaged_dims(x), dtype=dtype) if near is None else near.to(dtype)
    return Centred(x - centre.view(channel_shape(x)), centre.double())


def pack(x: Tensor) -> Tensor:
    """Additive moments of this worker, fp64 [2C + 1]: m * mu, m * (sigma^2 + mu^2), m. An empty `x` packs to zeros.

    Sums of squares lose the variance to cancellation in fp32 (a quarter of it at |mu|/sigma = 1000); in fp64 they keep
    1e-10 of it there, and they add up whatever the workers' shares are, in one collective.
    """
    return pack_centred(*centred(x))


def pack_centred(values: Tensor, centre: Tensor | None) -> Tensor:
    """`pack` of values + centre.

    torch's CPU kernel for moments adds up one by one: its variance is off by 4e-4 over 800,000 fp32 values in
    channels_last. Its sums add up pairwise. What rounding the centre has moved, the sum of the values knows.
    """
    channels, dims = values.shape[1], averaged_dims(values)
    count = values.numel() // channels
    packed = values.new_full((2 * channels + 1,), count, dtype=torch.float64)
    first, second, _ = packed.split_with_sizes([channels, channels, 1])
    if centre is None:
        torch.sum(values, dims, out=first)
        torch.sum(values * values, dims, out=second)
        return packed
    if values.is_cuda:  # both in one pass; the mean is near 0, where the kernel is right
        mean, var = (moment.double() for moment in local_moments(values))
        sums, squares = mean * count, torch.addcmul(var, mean, mean) * count
    else:
        sums, squares = values.sum(dims).double(), (values * values).sum(dims).double()
    torch.add(sums, centre, alpha=count, out=first)
    torch.addcmul(squares, centre, sums + first, out=second)  # x^2 = v^2 + c (2 v + c), where v = x - c
    return packed


def unpack(packed: Tensor) -> Moments:
    """Moments from the sum of all workers' `pack`; not finite where the count is 0."""
    channels = len(packed) // 2
    count = packed[-1:]
    mean, mean_of_squares, _ = (packed / count).split_with_sizes([channels, channels, 1])
    # NaN and infinity pass through clamp: a poisoned batch stays visible.
    return Moments(count, mean, torch.addcmul(mean_of_squares, mean, mean, value=-1).clamp_(min=0))


def batch_moments(x: Tensor, group: dist.ProcessGroup | None) -> Moments:
    """Moments of the batch that the workers of `group` hold together, by one collective."""
    return unpack(sum_over_workers(pack(x), group))


def _dense(x: Tensor) -> Tensor:
    """`x` in a layout that the CUDA kernels know: channels_last as it is, anything else contiguous."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x
    if x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d):
        return x
    return x.contiguous()

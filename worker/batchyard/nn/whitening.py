"""Whitening: normalisation by the whole covariance, exact (ZCA) or by Newton iterations (IterNorm).

y = Cov^(-1/2) (x - mu), then gamma and beta per channel. The paper's section 2 names full whitening as what BN spares.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from batchyard.nn.collectives import all_sum
from batchyard.nn.moments import channel_shape
from batchyard.nn.running import move_towards


class ZCAWhitening(nn.Module):
    """Whitens groups of channels by the symmetric inverse square root of their covariance, O(C^3).

    Mean and covariance are those of the batch of all workers, by one collective in each direction, in fp64.

    Args:
        num_features: C, the size of dimension 1.
        group_size: channels whitened together; divides C; None: all.
        eps: added to the diagonal of the covariance, above 0.
        momentum: weight of the newest batch in the running statistics; None: the average over all batches.
        affine: learn gamma (weight) and beta (bias).
        process_group: the workers that share a batch; None: all.

    Shape: (N, C) or (N, C, ...).
    """

    running_mean: Tensor
    running_cov: Tensor
    num_batches_tracked: Tensor
    skipped_batches: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        group_size: int | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        size = num_features if group_size is None else group_size
        if num_features < 1 or size < 1 or num_features % size:
            raise ValueError(f"num_features is {num_features} and group_size {size}; the second must divide the first")
        self.num_features, self.group_size = num_features, size
        self.eps, self.momentum, self.process_group = eps, momentum, process_group
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        groups = num_features // size
        self.register_buffer("running_mean", torch.zeros(groups, size, 1))
        self.register_buffer("running_cov", torch.eye(size).repeat(groups, 1, 1))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))
        self.register_buffer("skipped_batches", torch.zeros((), dtype=torch.long), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Whitened x, in its shape and dtype; raises ValueError for another number of channels."""
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise ValueError(f"input has shape {list(x.shape)}; expected (N, {self.num_features}, ...)")
        groups, samples = self.num_features // self.group_size, x.numel() // self.num_features
        values = x.transpose(0, 1).reshape(groups, self.group_size, samples).double()
        if self.training:
            mean, cov, unbiased = self._batch_statistics(values)
            statistics = [(self.running_mean, mean.detach()), (self.running_cov, unbiased.detach())]
            move_towards(statistics, self.num_batches_tracked, self.skipped_batches, self.momentum)
        else:
            mean, cov = self.running_mean.double(), self.running_cov.double()
        white = self.inverse_square_root(
            cov + self.eps * torch.eye(self.group_size, dtype=cov.dtype, device=cov.device)
        )
        y = (white @ (values - mean)).reshape(self.num_features, x.shape[0], *x.shape[2:]).transpose(0, 1)
        if self.weight is not None and self.bias is not None:
            shape = channel_shape(x)
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    def _batch_statistics(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean [G, S, 1], biased and unbiased covariance [G, S, S] of the values [G, S, M] of all workers."""
        count = values.shape[2]
        local_mean = values.sum(2, keepdim=True) / max(count, 1)
        centred = values - local_mean
        squares = centred @ centred.transpose(1, 2) + count * (local_mean @ local_mean.transpose(1, 2))
        packed = torch.cat([values.sum(2).flatten(), squares.flatten(), values.new_tensor([count])])
        total = all_sum(packed, self.process_group)
        sums, squares, samples = torch.split(total, [self.num_features, total.numel() - self.num_features - 1, 1])
        mean = (sums / samples).view(-1, self.group_size, 1)
        cov = (squares / samples).view(-1, self.group_size, self.group_size) - mean @ mean.transpose(1, 2)
        return mean, cov, cov * (samples / (samples - 1).clamp(min=1))

    def inverse_square_root(self, cov: Tensor) -> Tensor:
        """Cov^(-1/2) of [G, S, S], symmetric."""
        return cast(Tensor, _InverseSquareRoot.apply(cov))  # type: ignore[no-untyped-call]


class IterNorm(ZCAWhitening):
    """Iterative normalisation (arXiv 1904.03441): Newton's iterations towards Cov^(-1/2), without an eigensolver.

    Args:
        iterations: T of the paper; 5 whitens well and trains well.
        num_features, group_size, eps, momentum, affine, process_group: as in ZCAWhitening.
    """

    def __init__(self, num_features: int, *, iterations: int = 5, **options: Any) -> None:
        if iterations < 1:
            raise ValueError(f"iterations is {iterations}; expected 1 or more")
        super().__init__(num_features, **options)
        self.iterations = iterations

    def inverse_square_root(self, cov: Tensor) -> Tensor:
        """P <- (3 P - P^3 Cov / tr Cov) / 2, from the identity; then P / sqrt(tr Cov)."""
        trace = cov.diagonal(dim1=1, dim2=2).sum(1).view(-1, 1, 1)
        scaled = cov / trace
        root = torch.eye(self.group_size, dtype=cov.dtype, device=cov.device).expand_as(cov)
        for _ in range(self.iterations):
            root = (3 * root - root @ root @ root @ scaled) / 2
        whitening: Tensor = root / trace.sqrt()
        return whitening


class _InverseSquareRoot(torch.autograd.Function):
    """V diag(l^-1/2) V'. Its gradient by Daleckii and Krein stays finite where eigenvalues are equal."""

    @staticmethod
    def forward(ctx: Any, cov: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(cov)
        roots = values.clamp(min=torch.finfo(cov.dtype).tiny).sqrt()
        ctx.save_for_backward(roots, vectors)
        result: Tensor = (vectors / roots.unsqueeze(-2)) @ vectors.transpose(-1, -2)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        roots, vectors = ctx.saved_tensors
        a, b = roots.unsqueeze(-1), roots.unsqueeze(-2)
        inner = vectors.transpose(-1, -2) @ (gradient + gradient.transpose(-1, -2)) @ vectors / 2
        result: Tensor = -vectors @ (inner / (a * b * (a + b))) @ vectors.transpose(-1, -2)
        return result

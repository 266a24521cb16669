"""Other normalisations that the paper argues against or that came after it, behind BN's own interface.

Each is SyncBatchNorm but for its training forward, so that it is synchronised, guarded, watched and folded as BN is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from batchyard.nn.moments import batch_moments, channel_shape, statistics_dtype
from batchyard.nn.sync_batchnorm import Running, SyncBatchNorm
from batchyard.nn.synced import synced_batch_norm


class DetachedBatchNorm(SyncBatchNorm):
    """The naive normalisation of section 2: the gradient takes mu and sigma for constants, dx = gamma / s * dy.

    A step then moves the bias before it although normalisation takes that move away again: the bias grows without end
    while the output and the loss stay. One collective forward, none backward.
    """

    def _in_training(self, x: Tensor) -> Tensor:
        running = self._running()
        with torch.no_grad():
            moments = batch_moments(x, self.process_group)
            if running is not None:
                running.move(moments.mean, moments.unbiased_var, self.momentum)
        shape, dtype = channel_shape(x), statistics_dtype(x)
        invstd = (moments.var + self.eps).rsqrt().to(dtype)
        xhat = (x - moments.mean.to(dtype).view(shape)) * invstd.view(shape)
        return _scaled(xhat, self.weight, self.bias).to(x.dtype)


class StandardizeDetached(DetachedBatchNorm):
    """The layer of section 2's example: detached, and without gamma and beta.

    A beta learns what the bias before it is told in vain, and by that ends what tells it; here nothing does.
    """

    def __init__(self, num_features: int, **options: Any) -> None:
        super().__init__(num_features, affine=False, **_without_affine("standardize_detached", options))


class StandardizePost(SyncBatchNorm):
    """Standardisation of Gulcehre & Bengio (arXiv 1301.4083): after the nonlinearity, without gamma and beta.

    The placement is the network's to make: `placement` says where.
    """

    placement = "after"

    def __init__(self, num_features: int, **options: Any) -> None:
        super().__init__(num_features, affine=False, **_without_affine("standardize_post", options))


class BatchRenorm(SyncBatchNorm):
    """Batch renormalisation (arXiv 1702.03275): y = (xhat * r + d) * gamma + beta.

    r = sigma_B / sigma and d = (mu_B - mu) / sigma, clipped and without gradient, let training see what
    inference will.

    Args:
        r_max: r stays within [1 / r_max, r_max]; 1 with d_max 0 is BN. The paper goes from 1 to 3 in training.
        d_max: d stays within [-d_max, d_max]; the paper goes from 0 to 5.
    """

    def __init__(self, num_features: int, *, r_max: float = 3.0, d_max: float = 5.0, **options: Any) -> None:
        if r_max < 1 or d_max < 0:
            raise ValueError(f"r_max is {r_max} and d_max {d_max}; expected r_max of 1 or more and d_max of 0 or more")
        if not options.get("track_running_stats", True):
            raise ValueError("renorm needs running statistics: track_running_stats must be True")
        super().__init__(num_features, **options)
        self.r_max, self.d_max = r_max, d_max

    def _in_training(self, x: Tensor) -> Tensor:
        running = self._running()
        assert running is not None, "renorm always tracks running statistics"
        xhat, moments = synced_batch_norm(x, None, None, self.eps, self.process_group)
        r, d = self._correction(running, moments.mean, moments.var)
        running.move(moments.mean, moments.unbiased_var, self.momentum)
        dtype, shape = statistics_dtype(x), channel_shape(x)
        corrected = xhat.to(dtype) * r.to(dtype).view(shape) + d.to(dtype).view(shape)
        return _scaled(corrected, self.weight, self.bias).to(x.dtype)

    @torch.no_grad()
    def _correction(self, running: Running, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        sigma = (running.running_var.double() + self.eps).sqrt()
        r = ((var + self.eps).sqrt() / sigma).clamp(1 / self.r_max, self.r_max)
        d = ((mean - running.running_mean) / sigma).clamp(-self.d_max, self.d_max)
        return r, d


def _without_affine(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The `options` of a layer that has nothing to learn. Raises ValueError where they ask for it."""
    if options.pop("affine", False):
        raise ValueError(f"{name} has no gamma and beta: affine must be False")
    return options


def _scaled(xhat: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    """The learned scale and shift: gamma * xhat + beta, where None means 1 and 0."""
    if gamma is None or beta is None:
        return xhat
    shape = channel_shape(xhat)
    return xhat * gamma.to(xhat.dtype).view(shape) + beta.to(xhat.dtype).view(shape)

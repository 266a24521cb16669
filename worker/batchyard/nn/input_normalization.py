"""InputNormalization: raw pixels in, normalised pixels out; an affine layer that folds away."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class InputNormalization(nn.Module):
    """(x / scale - mean) / std per channel of x (N, C, ...); integer pixels become floats.

    Args:
        mean: of each channel, in units of `scale`; one number for a single channel.
        std: of each channel, above 0, in units of `scale`.
        scale: the value of a full pixel; 255 for bytes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] | float, std: Sequence[float] | float, scale: float = 255.0) -> None:
        super().__init__()
        means, stds = (torch.tensor(v, dtype=torch.float32).flatten() for v in (mean, std))
        if means.shape != stds.shape or not means.numel():
            raise ValueError(f"mean has {means.numel()} values and std {stds.numel()}; expected one each per channel")
        if not (bool((stds > 0).all()) and bool(torch.isfinite(stds).all() and torch.isfinite(means).all())):
            raise ValueError(f"mean {means.tolist()}, std {stds.tolist()}; expected finite numbers, std above 0")
        if not scale > 0:
            raise ValueError(f"scale is {scale}; expected the value of a full pixel, such as 255")
        self.register_buffer("mean", means)
        self.register_buffer("std", stds)
        self.scale = float(scale)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift per channel, fp64 [C]: the layer is x * scale + shift."""
        factor = 1 / (self.std.double() * self.scale)
        return factor, -self.mean.double() / self.std.double()

    def forward(self, x: Tensor) -> Tensor:
        """Normalised x in the dtype of the statistics."""
        if x.dim() < 2 or x.shape[1] != self.mean.numel():
            raise ValueError(f"pixels have shape {list(x.shape)}; expected (N, {self.mean.numel()}, ...)")
        shape = [1, -1, *[1] * (x.dim() - 2)]
        return (x.to(self.mean.dtype) / self.scale - self.mean.view(shape)) / self.std.view(shape)

    def extra_repr(self) -> str:
        """The statistics, for print(module)."""
        return f"mean={self.mean.tolist()}, std={self.std.tolist()}, scale={self.scale}"

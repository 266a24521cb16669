"""The algebra of folding: pure functions from tensors to tensors.

An affine map per channel is y = scale * x + shift, both [C]. For batch normalisation with population statistics
(Algorithm 2 of arXiv 1502.03167) scale = gamma / sqrt(Var[x] + eps) and shift = beta - scale * E[x].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Affine(NamedTuple):
    """y = scale * x + shift along dimension 1; fp64, [C] each."""

    scale: Tensor
    shift: Tensor

    def after(self, first: Affine) -> Affine:
        """The map that applies `first` and then this one."""
        return Affine(self.scale * first.scale, self.scale * first.shift + self.shift)

    def of(self, start: int, size: int) -> Affine:
        """The map of `size` channels from `start`."""
        return Affine(self.scale[start : start + size], self.shift[start : start + size])

    def repeated(self, times: int) -> Affine:
        """The map when every channel is flattened into `times` features."""
        return Affine(self.scale.repeat_interleave(times), self.shift.repeat_interleave(times))

    def within(self, channels: int, start: int) -> Affine:
        """The map on some of `channels`, with the identity on the others."""
        scale, shift = self.scale.new_ones(channels), self.shift.new_zeros(channels)
        scale[start : start + len(self.scale)] = self.scale
        shift[start : start + len(self.shift)] = self.shift
        return Affine(scale, shift)

    @property
    def keeps_order(self) -> bool:
        """Whether a maximum may be taken before the map as well as after it."""
        return bool((self.scale >= 0).all())

    @property
    def keeps_zero(self) -> bool:
        """Whether zero padding may be added before the map as well as after it."""
        return bool((self.shift == 0).all())


def batch_norm_affine(mean: Tensor, var: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float) -> Affine:
    """The affine map of BN with population statistics; a missing gamma is 1, a missing beta 0."""
    scale = (var.double() + eps).rsqrt()
    if gamma is not None:
        scale = scale * gamma.double()
    shift = -scale * mean.double()
    return Affine(scale, shift if beta is None else shift + beta.double())


Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS: tuple[type[nn.Module], ...] = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)


def fold_after(layer: Layer, affine: Affine) -> None:
    """Makes `layer` compute affine(layer(x)). A layer is linear in its weight: each output's weights are scaled."""
    weight, bias = layer.weight.detach(), _bias(layer)
    scale = affine.scale
    if isinstance(layer, TRANSPOSED):
        # [C_in, C_out / groups, ...]: the outputs of group g belong to the inputs of group g.
        inputs = weight.shape[0] // layer.groups
        per_input = scale.view(layer.groups, -1).repeat_interleave(inputs, 0)
        weight = weight * per_input.view(*per_input.shape, *[1] * (weight.dim() - 2))
    else:
        weight = weight * scale.view(-1, *[1] * (weight.dim() - 1))
    _set(layer, weight, scale * bias + affine.shift)


def fold_before(layer: Layer, affine: Affine) -> None:
    """Makes `layer` compute layer(affine(x)), where no zero padding meets a shift: the caller has seen to that."""
    weight, bias = layer.weight.detach(), _bias(layer)
    scale, shift = affine
    if isinstance(layer, TRANSPOSED):
        _set(layer, weight * scale.view(-1, *[1] * (weight.dim() - 1)), bias)
        return
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    outputs = weight.shape[0] // groups
    # [C_out, C_in / groups, ...]: output o of group g reads the inputs of group g.
    scales, shifts = (v.view(groups, -1).repeat_interleave(outputs, 0) for v in (scale, shift))
    per_input = weight if weight.dim() == 2 else weight.flatten(2).sum(2)
    bias = bias + (per_input * shifts).sum(1)
    _set(layer, weight * scales.view(*scales.shape, *[1] * (weight.dim() - 2)), bias)


def _bias(layer: Layer) -> Tensor:
    if layer.bias is not None:
        return layer.bias.detach()
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return torch.zeros(outputs, dtype=layer.weight.dtype, device=layer.weight.device)


def _set(layer: Layer, weight: Tensor, bias: Tensor) -> None:
    """New parameters, so that tied ones elsewhere keep their values."""
    grad = layer.weight.requires_grad
    layer.weight = nn.Parameter(weight.contiguous(), requires_grad=grad)
    layer.bias = nn.Parameter(bias, requires_grad=grad)


class ChannelAffine(nn.Module):
    """y = x * scale + shift per channel of x (N, C, ...): what is left of a BN that cannot be folded."""

    scale: Tensor
    shift: Tensor

    def __init__(self, affine: Affine) -> None:
        super().__init__()
        self.register_buffer("scale", affine.scale.clone())
        self.register_buffer("shift", affine.shift.clone())

    @property
    def affine(self) -> Affine:
        """The map as it is now."""
        return Affine(self.scale, self.shift)

    @affine.setter
    def affine(self, affine: Affine) -> None:
        self.scale, self.shift = affine

    def forward(self, x: Tensor) -> Tensor:
        """Returns x * scale + shift, in the dtype of x."""
        shape = [1, -1, *[1] * (x.dim() - 2)]
        return (x * self.scale.view(shape) + self.shift.view(shape)).to(x.dtype)

"""A model's parameters and gradients in one piece of memory each.

One all-reduce then sums every gradient, and an optimiser step is a few operations on one long tensor, where a small
network would spend most of its time on dozens of short ones.
"""

from __future__ import annotations

import torch
from torch import nn

ALIGNMENT = 16
"""Elements: each parameter begins at a multiple of 64 bytes, as in memory of its own."""


class FlatParameters:
    """Moves the parameters of `model` (all of one dtype, on one device) into `values` and their gradients into
    `gradients`; the model goes on using them in place.

    Parameters that weight decay applies to, those with two or more dimensions, come first: values[:decayed]. Frozen
    parameters (requires_grad False) stay where and what they are.
    """

    def __init__(self, model: nn.Module) -> None:
        parameters = sorted(
            (p for p in model.parameters() if p.requires_grad), key=lambda parameter: parameter.ndim < 2
        )
        sizes = [_aligned(parameter.numel()) for parameter in parameters]
        self.decayed = sum(size for size, each in zip(sizes, parameters, strict=True) if each.ndim >= 2)
        length = sum(sizes)
        self.values = parameters[0].new_zeros(length)
        self._buffer = parameters[0].new_zeros(length + ALIGNMENT)
        self.gradients = self._buffer[:length]
        self._votes = self._buffer[length : length + 3]
        start = 0
        for parameter, size in zip(parameters, sizes, strict=True):
            self._adopt(parameter, slice(start, start + parameter.numel()))
            start += size

    def _adopt(self, parameter: nn.Parameter, place: slice) -> None:
        # As laid out before: channels_last stays what it is.
        value, gradient = (
            flat.as_strided(parameter.shape, parameter.stride(), place.start) for flat in (self.values, self._buffer)
        )
        value.copy_(parameter.detach())
        parameter.data, parameter.grad = value, gradient

    def begin_step(self, *, stop: bool, pause: bool = False, tell: bool = False) -> None:
        """Clears the gradients and casts this worker's votes: to stop, to pause, and to tell what points have shown."""
        self._buffer.zero_()
        if stop or pause or tell:
            self._votes.copy_(torch.tensor([stop, pause, tell]))

    def votes(self) -> tuple[bool, bool, bool]:
        """Whether any worker has voted to stop, to pause, and to tell, in this step. A host sync on CUDA."""
        stop, pause, tell = self._votes.tolist()
        return stop > 0, pause > 0, tell > 0

    @property
    def summands(self) -> torch.Tensor:
        """What all workers add up in a step: the gradients and, in the same message, the votes."""
        return self._buffer


def _aligned(elements: int) -> int:
    return -(-elements // ALIGNMENT) * ALIGNMENT

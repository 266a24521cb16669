"""How many samples a certificate is measured on end to end: as many as its fp64 oracle computes in seconds.

The proof layer by layer does not look at samples; they show how roundings add up over the depth and that decisions
stay. torch has fast convolutions for fp32 only: in fp64, 512 samples of a ResNet-18 take over a minute on 2 cores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

MOST_MULTIPLY_ADDS = 32_000_000_000
"""Of the fp64 oracle over all samples: 3 to 6 s on 2 cores. 57 samples of a ResNet-18 at 32x32, which has 0.56e9."""
LEAST_SAMPLES = 16
"""However much they cost."""


def affordable(folded: nn.Module, samples: Tensor) -> Tensor:
    """The first of `samples` [n, ...] that the oracle of a folded network may be asked about; where it is cheap, all.

    Depends on shapes alone: the same network and samples give the same certificate on every machine.
    """
    most = max(LEAST_SAMPLES, MOST_MULTIPLY_ADDS // max(1, multiply_adds(folded, samples[:1])))
    return samples[:most]


@torch.no_grad()
def multiply_adds(folded: nn.Module, one: Tensor) -> int:
    """Of the linear and convolution layers of a folded network, whose layers are all modules, for `one` [1, ...]."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Linear | _ConvNd)
        # A transposed convolution spreads each input value, any other layer gathers each output value.
        values = inputs[0] if isinstance(layer, _ConvTransposeNd) else output
        total += values.numel() * layer.weight[0].numel()

    layers = [layer for layer in folded.modules() if isinstance(layer, nn.Linear | _ConvNd)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        folded(one)
    finally:
        for handle in handles:
            handle.remove()
    return total

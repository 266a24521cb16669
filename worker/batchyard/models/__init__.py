"""Network architectures by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from batchyard.models.inception import inception_bn
from batchyard.models.lenet import lenet
from batchyard.models.mlp import mlp
from batchyard.models.plan import Layers, ModelError, Plan
from batchyard.models.resnet import resnet18, resnet34, resnet50, resnet101

__all__ = ["ARCHITECTURES", "INITIAL_STD", "SHALLOW", "ModelError", "Plan", "build", "initial_weights"]

ARCHITECTURES: dict[str, Callable[[Plan], Layers]] = {
    "mlp": mlp,
    "lenet": lenet,
    "inception_bn": inception_bn,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
}
"""An architecture's name to what makes its layers."""

SHALLOW = ("mlp", "lenet")
INITIAL_STD = 0.05
"""Standard deviation of a shallow network's initial weights. The paper says "small random Gaussian values" and no
number. Deep networks take He's (arXiv 1502.01852): without normalisation any one number would let their activations
die out or explode."""


def build(architecture: str, plan: Plan, *, seed: int) -> nn.Sequential:
    """The network called `architecture`, on the CPU, in training mode. Raises ModelError.

    Weights are Gaussian with mean 0 and the standard deviation that `initial_weights` tells, biases 0. They depend on
    the seed and the shapes alone, never on the process's own random state.
    """
    if architecture not in ARCHITECTURES:
        raise ModelError(f"model.architecture: {architecture!r} given; expected one of {', '.join(ARCHITECTURES)}")
    network = nn.Sequential(ARCHITECTURES[architecture](plan))
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            std = INITIAL_STD if architecture in SHALLOW else math.sqrt(2 / layer.weight[0].numel())
            nn.init.normal_(layer.weight, 0.0, std, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def initial_weights(architecture: str) -> str:
    """The distribution that the initial weights of `architecture` are drawn from, for people."""
    return f"N(0, {INITIAL_STD}^2)" if architecture in SHALLOW else "N(0, 2 / fan-in)"

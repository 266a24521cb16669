"""Network architectures by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from batchyard.models.lenet import lenet
from batchyard.models.mlp import mlp
from batchyard.models.plan import Layers, ModelError, Plan

__all__ = ["ARCHITECTURES", "INITIAL_STD", "ModelError", "Plan", "build"]

ARCHITECTURES: dict[str, Callable[[Plan], Layers]] = {"mlp": mlp, "lenet": lenet}
"""An architecture's name to what makes its layers."""

INITIAL_STD = 0.05
"""Standard deviation of initial weights. The paper says "small random Gaussian values" and no number."""


def build(architecture: str, plan: Plan, *, seed: int) -> nn.Sequential:
    """The network called `architecture`, on the CPU, in training mode. Raises ModelError.

    Weights are Gaussian with mean 0 and standard deviation INITIAL_STD, biases 0. They depend on the seed and the
    shapes alone, never on the process's own random state.
    """
    if architecture not in ARCHITECTURES:
        raise ModelError(f"model.architecture: {architecture!r} given; expected one of {', '.join(ARCHITECTURES)}")
    network = nn.Sequential(ARCHITECTURES[architecture](plan))
    generator = torch.Generator().manual_seed(seed)
    for layer in network:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.normal_(layer.weight, 0.0, INITIAL_STD, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network

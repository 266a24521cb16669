"""Network architectures by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from batchyard.models import user_network
from batchyard.models.airbench import PATCH_IMAGES, PartialIdentity, PatchWhitening, airbench
from batchyard.models.densenet import densenet121
from batchyard.models.inception import inception_bn
from batchyard.models.lenet import lenet
from batchyard.models.mlp import mlp
from batchyard.models.mobilenet import mobilenet_v2
from batchyard.models.plan import Layers, ModelError, Plan
from batchyard.models.resnet import resnet18, resnet34, resnet50, resnet101
from batchyard.models.wide_resnet import wide_resnet, wide_resnet16
from batchyard.training.spec.python_architecture import FORM, PREFIX

__all__ = [
    "ARCHITECTURES",
    "FIT_SAMPLES",
    "INITIAL_STD",
    "SHALLOW",
    "ModelError",
    "Plan",
    "build",
    "initial_weights",
    "layers_from_data",
]

ARCHITECTURES: dict[str, Callable[[Plan], Layers]] = {
    "mlp": mlp,
    "lenet": lenet,
    "inception_bn": inception_bn,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "wide_resnet": wide_resnet,
    "wide_resnet16": wide_resnet16,
    "mobilenet_v2": mobilenet_v2,
    "densenet121": densenet121,
    "airbench": airbench,
}
"""An architecture's name to what makes its layers."""

FIT_SAMPLES = PATCH_IMAGES
"""Training samples that are enough for any layer whose weights come from data."""
SHALLOW = ("mlp", "lenet")
INITIAL_STD = 0.05
"""Standard deviation of a shallow network's initial weights. The paper says "small random Gaussian values" and no
number. Deep networks take He's (arXiv 1502.01852): without normalisation any one number would let their activations
die out or explode."""


def build(architecture: str, plan: Plan, *, seed: int) -> nn.Sequential:
    """The network called `architecture`, on the CPU, in training mode. Raises ModelError.

    Weights are Gaussian with mean 0 and the standard deviation that `initial_weights` tells, biases 0. They depend on
    the seed and the shapes alone, never on the process's own random state. `python:package.module:factory` is a user's
    own network, with the initial weights that its factory gives it; whether the package is allowed is checked before.
    """
    if architecture.startswith(PREFIX):
        return user_network.build(architecture, plan, seed=seed)
    if architecture not in ARCHITECTURES:
        known = f"{', '.join(ARCHITECTURES)} or {FORM}"
        raise ModelError(f"model.architecture: {architecture!r} given; expected one of {known}")
    network = nn.Sequential(ARCHITECTURES[architecture](plan))
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, PartialIdentity):
            layer.initialise(generator)
        elif isinstance(layer, nn.Linear | nn.Conv2d):
            std = INITIAL_STD if architecture in SHALLOW else math.sqrt(2 / layer.weight[0].numel())
            nn.init.normal_(layer.weight, 0.0, std, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def layers_from_data(network: nn.Module) -> list[PatchWhitening]:
    """The layers whose weights come from data: their `fit` sets them by FIT_SAMPLES normalised training samples."""
    return [layer for layer in network.modules() if isinstance(layer, PatchWhitening)]


def initial_weights(architecture: str) -> str:
    """The distribution that the initial weights of `architecture` are drawn from, for people."""
    if architecture.startswith(PREFIX):
        return "as its factory gives them"
    if architecture == "airbench":
        return "whitened patches, and partial identities over N(0, 1 / (3 fan-in))"
    return f"N(0, {INITIAL_STD}^2)" if architecture in SHALLOW else "N(0, 2 / fan-in)"

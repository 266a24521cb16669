"""lenet: a small convolutional network after LeNet-5 (LeCun et al. 1998), with normalisation before each activation."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn

from batchyard.models.plan import Layers, ModelError, Plan

CHANNELS = (6, 16)
UNITS = (120, 84)
SMALL = 16
"""Below this many pixels a side the kernels are 3x3 and the second pooling is left out: 8 -> 6 -> 3 -> 1."""
LEAST = 8
"""Pixels a side that the layers need."""


def lenet(plan: Plan) -> Layers:
    """Two convolutions with average pooling, two fully connected layers, and a last layer of logits.

    Images [N, C, H, W] to logits [N, classes]. No convolution pads with zeros: a border of zeros is not a border of
    normalised zeros, and input normalisation could not be folded. Raises ModelError for images below 8x8.
    """
    side = min(plan.image_shape[1:])
    if side < LEAST:
        height, width = plan.image_shape[1:]
        raise ModelError(f"lenet needs images of {LEAST}x{LEAST} pixels or more; these are {height}x{width}")
    layers, size = _convolutions(plan, small=side < SMALL)
    layers["flatten"] = nn.Flatten()
    features = CHANNELS[-1] * math.prod(size)
    for number, units in enumerate(UNITS, start=len(CHANNELS) + 1):
        layers[f"linear{number}"] = nn.Linear(features, units, bias=plan.bias)
        layers.update(plan.norm_and_activation(number, units))
        features = units
    layers["logits"] = nn.Linear(features, plan.classes)
    return layers


def _convolutions(plan: Plan, *, small: bool) -> tuple[Layers, list[int]]:
    """The convolutional part and the height and width that it leaves."""
    layers: Layers = OrderedDict()
    kernel, (before, *size) = (3 if small else 5), plan.image_shape
    for number, channels in enumerate(CHANNELS, start=1):
        layers[f"conv{number}"] = nn.Conv2d(before, channels, kernel, bias=plan.bias)
        layers.update(plan.norm_and_activation(number, channels))
        size, before = [length - kernel + 1 for length in size], channels
        if number == 1 or not small:
            layers[f"pool{number}"] = nn.AvgPool2d(2)
            size = [length // 2 for length in size]
    return layers, size

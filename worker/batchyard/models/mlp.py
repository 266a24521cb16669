"""mlp: the network of section 4.1 of the paper (Ioffe & Szegedy 2015, arXiv 1502.03167)."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn

from batchyard.models.plan import Layers, Plan


def mlp(plan: Plan) -> Layers:
    """Fully connected hidden layers, each normalised before its activation, and a last layer of logits.

    Images [N, C, H, W] to logits [N, classes]. The paper's has three hidden layers of 100 sigmoid units.
    """
    layers: Layers = OrderedDict(flatten=nn.Flatten())
    features = math.prod(plan.image_shape)
    for number, units in enumerate(plan.hidden, start=1):
        layers[f"linear{number}"] = nn.Linear(features, units, bias=plan.bias)
        layers.update(plan.norm_and_activation(number, units))
        features = units
    layers["logits"] = nn.Linear(features, plan.classes)
    return layers

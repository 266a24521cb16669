"""What an architecture is told, and the layers that architectures share."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from batchyard.nn import normalizer

Layers = OrderedDict[str, nn.Module]
"""A network's layers in order, by the names that statistics and the fold report use."""

ACTIVATIONS: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}


class ModelError(ValueError):
    """The network cannot be built for this data."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that shapes a network."""

    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    classes: int
    hidden: tuple[int, ...] = (100, 100, 100)
    """mlp only: units of each hidden layer."""
    activation: str = "sigmoid"
    """A key of ACTIVATIONS."""
    norm: str = "batch"
    """none, or a name that batchyard.nn.normalizer knows."""

    @property
    def bias(self) -> bool:
        """Whether layers before an activation have a bias: normalisation would cancel it (section 3.2 of the paper)."""
        return self.norm == "none"

    def norm_and_activation(self, number: int, features: int) -> Layers:
        """What follows hidden layer `number`: its normalisation, unless there is none, and its activation."""
        layers: Layers = OrderedDict()
        if self.norm != "none":
            layers[f"norm{number}"] = normalizer(self.norm, features)
        layers[f"{self.activation}{number}"] = ACTIVATIONS[self.activation]()
        return layers

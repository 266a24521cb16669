"""What an architecture is told, and the layers that architectures share."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from batchyard.nn import normalizer, placement

Layers = OrderedDict[str, nn.Module]
"""A network's layers in order, by the names that statistics and the fold report use."""

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "gelu": nn.GELU,
}

LARGE = 64
"""Pixels a side from which the stem "auto" is the one for ImageNet."""


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
    """A name that batchyard.nn.normalizer knows."""
    width: float = 1.0
    """All but mlp and lenet: channels of every layer, as a share of the paper's."""
    stem: str = "auto"
    """How a deep network begins: imagenet shrinks the image before the first block, cifar keeps its size; auto takes
    imagenet for images of LARGE pixels a side or more."""

    def scaled(self, channels: int) -> int:
        """`channels` at this width: at least one, unless there are none."""
        return max(1, round(channels * self.width)) if channels else 0

    @property
    def imagenet_stem(self) -> bool:
        """Whether the network's stem shrinks the image."""
        return self.stem == "imagenet" or (self.stem == "auto" and min(self.image_shape[1:]) >= LARGE)

    @property
    def bias(self) -> bool:
        """Whether layers before an activation have a bias: normalisation would cancel it (section 3.2 of the paper).

        The detached ones keep it: how it grows is what there is to see; standardize_post normalises only after.
        """
        return self.norm in ("none", "detached", "standardize_detached") or placement(self.norm) == "after"

    def norm_and_activation(self, number: int, features: int) -> Layers:
        """What follows hidden layer `number`: its activation, and before or after it, if any, its normalisation."""
        return OrderedDict(
            [*self.norm_before(number, features).items(), *self.activation_and(number, features).items()]
        )

    def norm_before(self, number: int, features: int) -> Layers:
        """The normalisation of hidden layer `number`, if it belongs before the activation."""
        return self._norm(number, features, "before")

    def activation_and(self, number: int, features: int) -> Layers:
        """The activation of hidden layer `number`, and its normalisation, if that belongs after."""
        activation = f"{self.activation}{number}", ACTIVATIONS[self.activation]()
        return OrderedDict([activation, *self._norm(number, features, "after").items()])

    def _norm(self, number: int, features: int, place: str) -> Layers:
        if self.norm == "none" or placement(self.norm) != place:
            return OrderedDict()
        return OrderedDict([(f"norm{number}", normalizer(self.norm, features))])

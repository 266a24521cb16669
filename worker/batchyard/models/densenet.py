"""densenet121: every layer sees the outputs of all before it (Huang et al. 2017, arXiv 1608.06993, table 1)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from batchyard.models.blocks import activated_convolution, convolution
from batchyard.models.plan import Layers, Plan

GROWTH = 32
"""Channels that each layer adds."""
BOTTLENECK = 4
"""Channels between a layer's two convolutions, in growths (DenseNet-B)."""
BLOCKS = (6, 12, 24, 16)


def densenet121(plan: Plan) -> Layers:
    """A stem, four dense blocks with halvings of channels and image between, the mean over the image, and logits.

    Images [N, C, H, W] to logits [N, classes]. The CIFAR stem is a 3x3 convolution that keeps the size, as section 4.2
    has it.
    """
    growth = plan.scaled(GROWTH)
    channels = 2 * growth
    layers = _stem(plan, channels)
    for number, count in enumerate(BLOCKS, start=1):
        block = DenseBlock(plan, channels, growth, count)
        layers[f"dense{number}"], channels = block, block.outputs
        if number < len(BLOCKS):
            layers[f"transition{number}"] = _transition(plan, channels)
            channels //= 2
    layers.update(plan.norm_and_activation(len(BLOCKS) + 1, channels))
    layers.update(average=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), logits=nn.Linear(channels, plan.classes))
    return layers


def _stem(plan: Plan, channels: int) -> Layers:
    if plan.imagenet_stem:
        layers = convolution(plan, 0, plan.image_shape[0], channels, 7, 2)
        layers["pool"] = nn.MaxPool2d(3, 2, 1)
        return layers
    return OrderedDict(conv0=nn.Conv2d(plan.image_shape[0], channels, 3, 1, 1, bias=plan.bias))


def _transition(plan: Plan, channels: int) -> nn.Sequential:
    layers = activated_convolution(plan, 1, channels, channels // 2, 1)
    layers["pool"] = nn.AvgPool2d(2, ceil_mode=True)
    return nn.Sequential(layers)


class DenseBlock(nn.Module):
    """Layers that each see the block's input and all outputs before theirs, and add `growth` channels."""

    def __init__(self, plan: Plan, inputs: int, growth: int, count: int) -> None:
        super().__init__()
        self.outputs = inputs + count * growth
        for number in range(count):
            layers = activated_convolution(plan, 1, inputs + number * growth, BOTTLENECK * growth, 1)
            layers.update(activated_convolution(plan, 2, BOTTLENECK * growth, growth, 3))
            self.add_module(f"layer{number + 1}", nn.Sequential(layers))

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H, W]."""
        for layer in self.children():
            x = torch.cat([x, layer(x)], 1)
        return x

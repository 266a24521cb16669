"""wide_resnet and wide_resnet16: few blocks, wide ones (Zagoruyko & Komodakis 2016, arXiv 1605.07146)."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from batchyard.models.blocks import activated_convolution
from batchyard.models.plan import Layers, Plan

WIDTH = 16
"""Channels of the stem, and of the first stage before widening; each stage doubles them."""


def wide_resnet(plan: Plan) -> Layers:
    """WRN-28-10: four blocks in each of three stages, ten times as wide as a ResNet; the paper's best on CIFAR."""
    return _wide_resnet(plan, blocks=4, widening=10)


def wide_resnet16(plan: Plan) -> Layers:
    """WRN-16-4: two blocks a stage, four times as wide."""
    return _wide_resnet(plan, blocks=2, widening=4)


def _wide_resnet(plan: Plan, *, blocks: int, widening: int) -> Layers:
    """A stem, three stages of pre-activation blocks, a last activation, the mean over the image, and logits.

    Images [N, C, H, W] to logits [N, classes]. The second and third stages halve the image; the ImageNet stem halves it
    twice before, which is ours: the paper's networks for CIFAR have none, and for ImageNet it widens ResNet-50.
    """
    channels = plan.scaled(WIDTH)
    large = plan.imagenet_stem
    first = nn.Conv2d(plan.image_shape[0], channels, *((7, 2, 3) if large else (3, 1, 1)), bias=plan.bias)
    layers: Layers = OrderedDict(stem=first)
    if large:
        layers["pool"] = nn.MaxPool2d(3, 2, 1)
    for stage in range(3):
        width = plan.scaled((WIDTH << stage) * widening)
        for number in range(blocks):
            block = PreActivated(plan, channels, width, 2 if stage and not number else 1)
            layers[f"block{stage + 1}_{number + 1}"], channels = block, width
    layers.update(plan.norm_and_activation(1, channels))
    layers.update(average=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), logits=nn.Linear(channels, plan.classes))
    return layers


class PreActivated(nn.Module):
    """Two times normalisation, activation and 3x3 convolution, around a shortcut; nothing after the sum.

    Where the shape changes, the shortcut is a 1x1 convolution of the first activation (He et al. 2016, arXiv
    1603.05027).
    """

    def __init__(self, plan: Plan, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(plan.norm_and_activation(1, inputs))
        convolutions: Layers = OrderedDict(conv1=nn.Conv2d(inputs, outputs, 3, stride, 1, bias=plan.bias))
        convolutions.update(activated_convolution(plan, 2, outputs, outputs, 3))
        self.body = nn.Sequential(convolutions)
        self.changes_shape = stride != 1 or inputs != outputs
        if self.changes_shape:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=plan.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        activated: Tensor = self.first(x)
        y: Tensor = self.body(activated) + (self.shortcut(activated) if self.changes_shape else x)
        return y

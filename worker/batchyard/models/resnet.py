"""resnet18, 34, 50 and 101 (He et al. 2016, arXiv 1512.03385), the stride on the 3x3 convolution as in version 1.5."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from batchyard.models.blocks import chain, convolution
from batchyard.models.plan import Layers, Plan

WIDTH = 64
"""Channels of the stem; each stage is twice as wide as the one before."""


def resnet18(plan: Plan) -> Layers:
    """Two basic blocks in each of four stages."""
    return resnet(plan, (2, 2, 2, 2), bottleneck=False)


def resnet34(plan: Plan) -> Layers:
    """3, 4, 6 and 3 basic blocks."""
    return resnet(plan, (3, 4, 6, 3), bottleneck=False)


def resnet50(plan: Plan) -> Layers:
    """3, 4, 6 and 3 bottlenecks."""
    return resnet(plan, (3, 4, 6, 3), bottleneck=True)


def resnet101(plan: Plan) -> Layers:
    """3, 4, 23 and 3 bottlenecks."""
    return resnet(plan, (3, 4, 23, 3), bottleneck=True)


def resnet(plan: Plan, blocks: tuple[int, ...], *, bottleneck: bool) -> Layers:
    """A stem, stages of so many blocks, the mean over the image, and logits.

    Images [N, C, H, W] of any size to logits [N, classes]. Every stage but the first halves the image; so does the
    ImageNet stem, twice. The CIFAR stem is a 3x3 convolution that keeps the size (section 4.2 of the paper).
    """
    channels = plan.scaled(WIDTH)
    large = plan.imagenet_stem
    layers = convolution(plan, 1, plan.image_shape[0], channels, *((7, 2) if large else (3, 1)))
    if large:
        layers["pool1"] = nn.MaxPool2d(3, 2, 1)
    for stage, count in enumerate(blocks):
        width = plan.scaled(WIDTH << stage)
        for number in range(count):
            block = Residual(plan, channels, width, 2 if stage and not number else 1, bottleneck=bottleneck)
            layers[f"block{stage + 1}_{number + 1}"], channels = block, block.outputs
    layers.update(average=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), logits=nn.Linear(channels, plan.classes))
    return layers


class Residual(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1, around a shortcut; the activation after the sum.

    Args:
        plan: what shapes the network.
        inputs: channels of x.
        width: channels of the convolutions; a bottleneck returns four times as many.
        stride: 2 halves the image.
        bottleneck: which of the two it is.
    """

    def __init__(self, plan: Plan, inputs: int, width: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        self.outputs = 4 * width if bottleneck else width
        stages = [(width, 1, 1), (width, 3, stride)] if bottleneck else [(width, 3, stride)]
        last = len(stages) + 1
        body = chain(plan, inputs, *stages)
        body.update(_linear(plan, last, width, self.outputs, 1 if bottleneck else 3, 1))
        shortcut: Layers = OrderedDict()  # x itself
        if stride != 1 or inputs != self.outputs:
            shortcut = _linear(plan, last, inputs, self.outputs, 1, stride)
        self.body, self.shortcut = nn.Sequential(body), nn.Sequential(shortcut)
        self.activation = nn.Sequential(plan.activation_and(last, self.outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        y: Tensor = self.activation(self.body(x) + self.shortcut(x))
        return y


def _linear(plan: Plan, number: int, inputs: int, outputs: int, kernel: int, stride: int) -> Layers:
    """A convolution whose output is added before its activation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=plan.bias)
    return OrderedDict([(f"conv{number}", conv), *plan.norm_before(number, outputs).items()])

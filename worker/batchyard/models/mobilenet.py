"""mobilenet_v2: inverted residuals with linear bottlenecks (Sandler et al. 2018, arXiv 1801.04381, table 2)."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from torch import Tensor, nn

from batchyard.models.blocks import convolution
from batchyard.models.plan import Layers, Plan


class Stage(NamedTuple):
    """A row of table 2."""

    expansion: int
    channels: int
    blocks: int
    stride: int
    """Of the first block."""


STAGES = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)
STEM, HEAD = 32, 1280
KEPT_BY_CIFAR_STEM = 24
"""Channels of the stage that halves the image in the ImageNet network and keeps it after the CIFAR stem."""


def mobilenet_v2(plan: Plan) -> Layers:
    """A stem, seventeen inverted residuals, a last 1x1 convolution, the mean over the image, and logits.

    Images [N, C, H, W] to logits [N, classes]. The paper's activation is relu6. The ImageNet network shrinks the image
    32 times, as the paper says; with the CIFAR stem neither the stem nor the second stage halves it: 8 times. Where
    `width` is below 1 the last convolution is narrower, too, which the paper leaves as it is.
    """
    large = plan.imagenet_stem
    channels = plan.scaled(STEM)
    layers = convolution(plan, 1, plan.image_shape[0], channels, 3, 2 if large else 1)
    for number, stage in enumerate(STAGES, start=1):
        outputs = plan.scaled(stage.channels)
        halves = stage.stride == 2 and (large or stage.channels != KEPT_BY_CIFAR_STEM)
        for place in range(stage.blocks):
            stride = 2 if halves and not place else 1
            layers[f"block{number}_{place + 1}"] = InvertedResidual(plan, channels, outputs, stage.expansion, stride)
            channels = outputs
    head = plan.scaled(HEAD)
    layers.update(convolution(plan, 2, channels, head, 1))
    layers.update(average=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), logits=nn.Linear(head, plan.classes))
    return layers


class InvertedResidual(nn.Module):
    """1x1 to more channels, 3x3 channel by channel, 1x1 back without an activation; a shortcut where shapes agree."""

    def __init__(self, plan: Plan, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        body: Layers = OrderedDict() if expansion == 1 else convolution(plan, 1, inputs, inner, 1)
        body.update(convolution(plan, 2, inner, inner, 3, stride, groups=inner))
        body["conv3"] = nn.Conv2d(inner, outputs, 1, bias=plan.bias)
        body.update(plan.norm_before(3, outputs))
        self.body = nn.Sequential(body)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        y: Tensor = self.body(x)
        return x + y if self.has_shortcut else y

"""inception_bn: the network of section 4.2 of the paper (Ioffe & Szegedy 2015, arXiv 1502.03167, figure 5).

The printed output sizes of 4c, 4d (576) and 4e (1024) are not the sums of their branches (608, 608 and 1056): the
branches are built as printed, and the sums follow.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from batchyard.models.blocks import Branches, chain, convolution
from batchyard.models.plan import Layers, Plan


class Block(NamedTuple):
    """A row of figure 5: channels of each branch."""

    name: str
    one: int
    """Of the 1x1 convolution; 0 for a block that halves the image: there it is left out."""
    three: tuple[int, int]
    """Of the 1x1 reduction and the 3x3 convolution."""
    double: tuple[int, int]
    """Of the 1x1 reduction and of both 3x3 convolutions."""
    pool: str
    """avg or max."""
    projection: int
    """Of the 1x1 convolution after pooling; 0 hands the pooled input on as it is."""


BLOCKS = (
    Block("3a", 64, (64, 64), (64, 96), "avg", 32),
    Block("3b", 64, (64, 96), (64, 96), "avg", 64),
    Block("3c", 0, (128, 160), (64, 96), "max", 0),
    Block("4a", 224, (64, 96), (96, 128), "avg", 128),
    Block("4b", 192, (96, 128), (96, 128), "avg", 128),
    Block("4c", 160, (128, 160), (128, 160), "avg", 128),
    Block("4d", 96, (128, 192), (160, 192), "avg", 128),
    Block("4e", 0, (128, 192), (192, 256), "max", 0),
    Block("5a", 352, (192, 320), (160, 224), "avg", 128),
    Block("5b", 352, (192, 320), (192, 224), "max", 128),
)
STEM = (64, 64, 192)


def inception_bn(plan: Plan) -> Layers:
    """A stem of three convolutions, ten blocks of parallel branches, the mean over the image, and logits.

    Images [N, C, H, W] of any size to logits [N, classes]; 69 normalisation layers before 69 activations. The ImageNet
    stem is figure 5's and halves the image three times; the CIFAR stem's first convolution is a 3x3 of stride 1, and
    only the second pooling is left.
    """
    large = plan.imagenet_stem
    first, second, channels = map(plan.scaled, STEM)
    layers = convolution(plan, 1, plan.image_shape[0], first, *((7, 2) if large else (3, 1)))
    if large:
        layers["pool1"] = nn.MaxPool2d(3, 2, 1)
    layers.update(convolution(plan, 2, first, second, 1))
    layers.update(convolution(plan, 3, second, channels, 3))
    layers["pool2"] = nn.MaxPool2d(3, 2, 1)
    for block in BLOCKS:
        layers[f"inception{block.name}"], channels = _branches(plan, block, channels)
    layers.update(average=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), logits=nn.Linear(channels, plan.classes))
    return layers


def _branches(plan: Plan, block: Block, inputs: int) -> tuple[Branches, int]:
    """The block, and the channels that it returns."""
    one, projection, *others = map(plan.scaled, (block.one, block.projection, *block.three, *block.double))
    reduced, three, double_reduced, double = others
    stride = 1 if block.one else 2
    branches: dict[str, Layers] = {}
    if block.one:
        branches["conv1x1"] = chain(plan, inputs, (one, 1, 1))
    branches["conv3x3"] = chain(plan, inputs, (reduced, 1, 1), (three, 3, stride))
    branches["double3x3"] = chain(plan, inputs, (double_reduced, 1, 1), (double, 3, 1), (double, 3, stride))
    branches["pool"] = OrderedDict([(block.pool, POOLS[block.pool](3, stride, 1))])
    if block.projection:
        branches["pool"].update(chain(plan, inputs, (projection, 1, 1)))
    return Branches(branches), one + three + double + (projection or inputs)


POOLS: dict[str, Callable[[int, int, int], nn.Module]] = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}

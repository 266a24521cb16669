"""What deep convolutional networks are made of: convolutions, side-by-side branches and shortcuts."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from batchyard.models.plan import Layers, Plan
from batchyard.nn import run_together


def convolution(
    plan: Plan, number: int, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> Layers:
    """Convolution `number`, its normalisation and its activation: [N, inputs, H, W] to [N, outputs, H / stride, ...].

    Odd kernels only; a border of zeros keeps the size at stride 1.
    """
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=plan.bias)
    layers: Layers = OrderedDict([(f"conv{number}", conv)])
    layers.update(plan.norm_and_activation(number, outputs))
    return layers


def activated_convolution(plan: Plan, number: int, inputs: int, outputs: int, kernel: int, stride: int = 1) -> Layers:
    """The other order: normalisation, activation and then convolution `number`, as pre-activation networks have it."""
    layers = plan.norm_and_activation(number, inputs)
    layers[f"conv{number}"] = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=plan.bias)
    return layers


def chain(plan: Plan, inputs: int, *stages: tuple[int, int, int]) -> Layers:
    """Convolutions one after another; each stage is (outputs, kernel, stride)."""
    layers: Layers = OrderedDict()
    for number, (outputs, kernel, stride) in enumerate(stages, start=1):
        layers.update(convolution(plan, number, inputs, outputs, kernel, stride))
        inputs = outputs
    return layers


class Branches(nn.Module):
    """Networks side by side on one input [N, C, H, W], their outputs concatenated along the channels.

    Over several workers their normalisations at equal depth share one collective.

    Args:
        branches: by name; each is its layers in order, all of which halve the image or none does.
    """

    def __init__(self, branches: dict[str, Layers]) -> None:
        super().__init__()
        for name, layers in branches.items():
            self.add_module(name, nn.Sequential(layers))

    def forward(self, x: Tensor) -> Tensor:
        """[N, sum of the branches' channels, H', W']."""
        return torch.cat(run_together(self.children(), x), 1)

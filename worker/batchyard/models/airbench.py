"""airbench: the CIFAR-10 network of Jordan 2024 (arXiv 2404.00498, section 3), made from that description.

What belongs to the network is here: whitened 2x2 patches, three groups of two convolutions, frozen scales, the small
logits, the partial identities. What belongs to its training (alternating flips, lookahead, a higher rate for biases,
several views of each test image) does not.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from batchyard.models.plan import ACTIVATIONS, Layers, ModelError, Plan
from batchyard.nn import SyncBatchNorm

GROUPS = (64, 256, 256)
"""Channels of each group's two convolutions."""
PATCH = 2
"""Pixels a side of a whitened patch."""
PATCH_IMAGES = 5000
PATCH_EPS = 5e-4
EPS, MOMENTUM = 1e-12, 0.4
"""Of the normalisations; the momentum in torch's sense, the share of the new batch."""
LOGIT_SCALE = 1 / 9
LEAST = 16
"""Pixels a side that the poolings need: 16 -> 15 -> 7 -> 3 -> 1."""


def airbench(plan: Plan) -> Layers:
    """Whitened patches, three groups, the maximum over the image, and logits.

    Images [N, C, H, W] to logits [N, classes]; the paper's activation is gelu. Raises ModelError for images below
    16x16.
    """
    colours, height, width = plan.image_shape
    if min(height, width) < LEAST:
        raise ModelError(f"airbench needs images of {LEAST}x{LEAST} pixels or more; these are {height}x{width}")
    whitening = PatchWhitening(colours)
    activation = ACTIVATIONS[plan.activation]()
    layers: Layers = OrderedDict([("whitening", whitening), (f"{plan.activation}0", activation)])
    channels = whitening.out_channels
    for number, outputs in enumerate(map(plan.scaled, GROUPS)):
        layers.update(_group(plan, 2 * number + 1, channels, outputs))
        channels = outputs
    logits = nn.Linear(channels, plan.classes, bias=False)
    layers.update(maximum=nn.AdaptiveMaxPool2d(1), flatten=nn.Flatten(), logits=logits, scale=Scale(LOGIT_SCALE))
    for layer in layers.values():
        if isinstance(layer, SyncBatchNorm):
            _freeze_scale(layer)
    return layers


def _group(plan: Plan, number: int, inputs: int, outputs: int) -> Layers:
    """Two 3x3 convolutions that keep the size; a pooling halves it after the first, before its normalisation."""
    layers: Layers = OrderedDict([(f"conv{number}", PartialIdentity(inputs, outputs, bias=plan.bias))])
    layers[f"pool{number}"] = nn.MaxPool2d(2)
    layers.update(plan.norm_and_activation(number, outputs))
    layers[f"conv{number + 1}"] = PartialIdentity(outputs, outputs, bias=plan.bias)
    layers.update(plan.norm_and_activation(number + 1, outputs))
    return layers


def _freeze_scale(norm: SyncBatchNorm) -> None:
    norm.eps, norm.momentum = EPS, MOMENTUM
    if norm.affine:
        norm.weight.requires_grad_(False)


class PartialIdentity(nn.Conv2d):
    """A 3x3 convolution that at first hands on its inputs in its first output channels, as far as there are any."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=bias)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draws from N(0, 1 / (3 fan-in)), the variance of torch's own initialisation, then sets the identities."""
        fan_in = self.weight[0].numel()
        self.weight.normal_(0.0, (3 * fan_in) ** -0.5, generator=generator)
        nn.init.dirac_(self.weight[: self.in_channels])
        if self.bias is not None:
            self.bias.zero_()


class PatchWhitening(nn.Conv2d):
    """A frozen 2x2 convolution without padding whose outputs on training images are uncorrelated, of variance 1.

    Its filters are the eigenvectors of the patches' covariance, each over the root of its eigenvalue, and then the
    same with the other sign, so that the activation behind loses nothing. The bias learns.
    """

    def __init__(self, colours: int) -> None:
        super().__init__(colours, 2 * colours * PATCH**2, PATCH)
        self.weight.requires_grad_(False)

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Sets the filters by normalised training images [n, colours, H, W]; the first PATCH_IMAGES are enough."""
        count, size = self.out_channels // 2, self.weight[0].numel()
        patches = nn.functional.unfold(images[:PATCH_IMAGES].double(), PATCH).transpose(1, 2).reshape(-1, size)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (values + PATCH_EPS).sqrt()).T.reshape(count, *self.weight.shape[1:])
        self.weight.copy_(torch.cat([filters, -filters]))


class Scale(nn.Module):
    """Its input times a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """The shape of x."""
        return x * self.factor

"""Deep networks: what their papers' tables say, and that they train, fold and stay themselves."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchyard import models
from batchyard.models import ModelError, Plan
from batchyard.models.airbench import PatchWhitening
from batchyard.models.blocks import Branches
from batchyard.nn import certify, convert_sync_batchnorm, fold
from batchyard.nn.normalizers import NORMALIZERS

DEEP = ("inception_bn", "resnet18", "resnet50", "wide_resnet16", "mobilenet_v2", "densenet121", "airbench")
PRE_ACTIVATED = ("wide_resnet16", "densenet121")
"""Normalise what several layers read: sums and concatenations. Those layers stay, as one affine step each."""


def small(norm: str = "batch", activation: str = "relu", side: int = 16, channels: int = 1) -> Plan:
    return Plan(image_shape=(channels, side, side), classes=10, norm=norm, activation=activation, width=1 / 16)


def shapes_of(network: nn.Module, kind: type[nn.Module], x: torch.Tensor) -> list[tuple[int, ...]]:
    """Of the outputs of all modules of a kind, but for the batch."""
    seen: list[tuple[int, ...]] = []
    for module in network.modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda _, __, y: seen.append(tuple(y.shape[1:])))
    network(x)
    return seen


def test_inception_bn_has_the_sizes_of_figure_5_but_for_the_three_sums_that_it_prints_wrongly() -> None:
    network = models.build("inception_bn", Plan(image_shape=(3, 224, 224), classes=1000), seed=0).eval()
    with torch.inference_mode():
        sizes = shapes_of(network, Branches, torch.zeros(1, 3, 224, 224))
    channels = [256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024]
    assert sizes == [(c, side, side) for c, side in zip(channels, [28] * 2 + [14] * 5 + [7] * 3, strict=True)]
    assert sum(isinstance(module, _BatchNorm) for module in network.modules()) == 69


@pytest.mark.parametrize(
    ("architecture", "parameters", "layers"),
    [
        ("resnet18", 11_689_512, 20),
        ("resnet34", 21_797_672, 36),
        ("resnet50", 25_557_032, 53),
        ("resnet101", 44_549_160, 104),
        ("mobilenet_v2", 3_504_872, 52),
        ("densenet121", 7_978_856, 121),
    ],
)
def test_networks_for_imagenet_have_the_parameters_that_the_world_knows_them_by(
    architecture: str, parameters: int, layers: int
) -> None:
    plan = Plan(image_shape=(3, 224, 224), classes=1000, activation="relu")
    network = models.build(architecture, plan, seed=0)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert sum(isinstance(module, _BatchNorm) for module in network.modules()) == layers


@pytest.mark.parametrize(
    ("architecture", "millions"), [("wide_resnet", 36.5), ("wide_resnet16", 2.7), ("airbench", 1.97)]
)
def test_networks_for_cifar_have_the_size_that_their_papers_print(architecture: str, millions: float) -> None:
    network = models.build(architecture, Plan(image_shape=(3, 32, 32), classes=10, activation="gelu"), seed=0)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert parameters / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize("architecture", ["inception_bn", "resnet18", "mobilenet_v2", "densenet121", "wide_resnet16"])
def test_a_stem_can_be_asked_for_whatever_the_size_of_the_images(architecture: str) -> None:
    """The ImageNet stem makes what is averaged at the end four times smaller."""
    sides = {}
    for stem in ("cifar", "imagenet"):
        plan = Plan(image_shape=(3, 64, 64), classes=10, activation="relu", width=1 / 16, stem=stem)
        network = models.build(architecture, plan, seed=0).eval()
        before = list(network)[: [name for name, _ in network.named_children()].index("average")]
        sides[stem] = nn.Sequential(*before)(torch.zeros(1, 3, 64, 64)).shape[-1]
    assert sides["cifar"] == 4 * sides["imagenet"]


@pytest.mark.parametrize("architecture", DEEP)
@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
@pytest.mark.parametrize("side", [8, 28, 33, 64])
def test_images_of_any_size_become_logits(architecture: str, activation: str, side: int) -> None:
    if architecture == "airbench" and side < 16:
        with pytest.raises(ModelError, match="16x16 pixels or more; these are 8x8"):
            models.build(architecture, small(side=side), seed=0)
        return
    network = models.build(architecture, small(activation=activation, side=side), seed=0)
    assert network(torch.rand(3, 1, side, side)).shape == (3, 10)


@pytest.mark.parametrize("architecture", DEEP)
@pytest.mark.parametrize("norm", NORMALIZERS)
def test_every_comparison_mode_takes_the_place_of_batch_normalisation_and_learns(architecture: str, norm: str) -> None:
    torch.manual_seed(0)
    network: Any = models.build(architecture, small(norm), seed=0)
    layers = [module for module in network.modules() if type(module) is NORMALIZERS[norm]]
    activations = sum(isinstance(module, nn.ReLU) for module in network.modules()) - (architecture == "airbench")
    assert len(layers) >= activations or norm == "none"
    network(torch.rand(8, 1, 16, 16)).square().sum().backward()
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in (learning[0], network.logits.weight):
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.any()


@pytest.mark.parametrize("architecture", DEEP)
@pytest.mark.parametrize("norm", ["batch", "none", "detached", "standardize_detached", "standardize_post", "renorm"])
def test_a_convolution_has_a_bias_exactly_where_no_normalisation_cancels_it(architecture: str, norm: str) -> None:
    network = models.build(architecture, small(norm), seed=0)
    cancelled = norm in ("batch", "renorm")
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and not isinstance(m, PatchWhitening)]
    assert all((convolution.bias is None) == cancelled for convolution in convolutions)


@pytest.mark.parametrize("architecture", DEEP)
def test_normalisation_layers_fold_and_the_folded_network_is_certified(architecture: str) -> None:
    torch.manual_seed(0)
    network = convert_sync_batchnorm(models.build(architecture, small(channels=3, side=32), seed=0))
    for layer in models.layers_from_data(network):
        layer.fit(torch.randn(64, 3, 32, 32))
    for _ in range(3):
        network(torch.randn(16, 3, 32, 32))
    folded = fold(network.eval(), (torch.randn(2, 3, 32, 32),))
    statuses = Counter(entry.status for entry in folded.report)
    assert set(statuses) == ({"folded", "affine"} if architecture in PRE_ACTIVATED else {"folded"})
    assert len(folded.report) == sum(isinstance(module, _BatchNorm) for module in network.modules())
    certificate = certify(folded, network, (torch.randn(8, 3, 32, 32),))
    assert certificate.passed, certificate.reasons


@pytest.mark.parametrize("architecture", ["inception_bn", "resnet18"])
def test_without_normalisation_activations_neither_die_out_nor_explode_at_first(architecture: str) -> None:
    torch.manual_seed(0)
    plan = Plan(image_shape=(3, 32, 32), classes=10, norm="none", activation="relu", width=1 / 4)
    with torch.inference_mode():
        spread = models.build(architecture, plan, seed=0)(torch.randn(4, 3, 32, 32)).std()
    assert 1e-2 < spread < 1e2

"""What sets airbench's network apart: whitened patches, identities, frozen scales."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from batchyard import models
from batchyard.models import Plan
from batchyard.models.airbench import PartialIdentity
from batchyard.nn import SyncBatchNorm
from batchyard.training.flat import FlatParameters


@pytest.fixture
def network() -> nn.Sequential:
    return models.build("airbench", Plan(image_shape=(3, 32, 32), classes=10, activation="gelu", width=1 / 4), seed=0)


def images(count: int = 200) -> torch.Tensor:
    """With neighbours alike, as in pictures."""
    noise = torch.randn(count, 3, 33, 33, generator=torch.Generator().manual_seed(1))
    return noise[..., 1:, 1:] + noise[..., :-1, 1:] + noise[..., 1:, :-1]


def test_whitened_patches_are_uncorrelated_and_of_variance_1(network: nn.Sequential) -> None:
    (layer,) = models.layers_from_data(network)
    layer.fit(images())
    outputs = layer(images())[:, :12].detach().transpose(0, 1).flatten(1)
    assert torch.allclose(outputs @ outputs.T / outputs.shape[1], torch.eye(12), atol=0.01)


def test_the_second_half_of_the_filters_is_the_first_with_the_other_sign(network: nn.Sequential) -> None:
    models.layers_from_data(network)[0].fit(images())
    filters = network.get_parameter("whitening.weight")
    assert torch.equal(filters[:12], -filters[12:])


def test_convolutions_hand_on_their_inputs_at_first(network: nn.Sequential) -> None:
    for layer in network:
        if isinstance(layer, PartialIdentity):
            x = torch.randn(2, layer.in_channels, 6, 6)
            kept = min(layer.in_channels, layer.out_channels)
            assert torch.allclose(layer(x)[:, :kept], x[:, :kept], atol=1e-6)


def test_what_is_frozen_no_optimiser_sees(network: nn.Sequential) -> None:
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert frozen == {"whitening.weight", *(f"norm{number}.weight" for number in range(1, 7))}
    before = {name: network.get_parameter(name).detach().clone() for name in frozen}
    FlatParameters(network).values.zero_()
    assert all(torch.equal(network.get_parameter(name), value) for name, value in before.items())
    assert not network.get_parameter("logits.weight").any()


def test_normalisations_have_the_published_eps_and_momentum(network: nn.Sequential) -> None:
    norms = [layer for layer in network if isinstance(layer, SyncBatchNorm)]
    assert [(norm.eps, norm.momentum) for norm in norms] == [(1e-12, 0.4)] * 6


def test_a_network_without_such_layers_takes_nothing_from_data() -> None:
    assert not models.layers_from_data(models.build("mlp", Plan(image_shape=(1, 8, 8), classes=10), seed=0))

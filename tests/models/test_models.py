from __future__ import annotations

import pytest
import torch
from torch import nn

from batchyard import models
from batchyard.models import INITIAL_STD, ModelError, Plan
from batchyard.models.plan import ACTIVATIONS
from batchyard.nn import SyncBatchNorm
from batchyard.nn.whitening import ZCAWhitening
from batchyard.training import spec

MNIST = Plan(image_shape=(1, 28, 28), classes=10)
DIGITS = Plan(image_shape=(1, 8, 8), classes=10, width=1 / 16)


def plan(norm: str = "batch", activation: str = "sigmoid", side: int = 28) -> Plan:
    return Plan(image_shape=(1, side, side), classes=10, norm=norm, activation=activation)


def kinds(network: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in network]


def test_the_registries_have_exactly_the_names_of_the_job_spec() -> None:
    assert tuple(models.ARCHITECTURES) == spec.ARCHITECTURES
    assert tuple(ACTIVATIONS) == spec.ACTIVATIONS


def test_mlp_is_the_network_of_section_4_1() -> None:
    network = models.build("mlp", MNIST, seed=0)
    hidden = ["Linear", "SyncBatchNorm", "Sigmoid"] * 3
    assert kinds(network) == ["Flatten", *hidden, "Linear"]
    shapes = [tuple(layer.weight.shape) for layer in network if isinstance(layer, nn.Linear)]
    assert shapes == [(100, 784), (100, 100), (100, 100), (10, 100)]


@pytest.mark.parametrize("architecture", models.SHALLOW)
def test_a_layer_has_a_bias_exactly_where_no_normalisation_cancels_it(architecture: str) -> None:
    for norm in spec.NORMS:
        network = list(models.build(architecture, plan(norm), seed=0))
        for layer, following in zip(network, [*network[1:], None], strict=True):
            if isinstance(layer, nn.Linear | nn.Conv2d):
                cancelled = isinstance(following, SyncBatchNorm | ZCAWhitening) and "detached" not in norm
                assert (layer.bias is None) == cancelled


@pytest.mark.parametrize("architecture", models.SHALLOW)
@pytest.mark.parametrize("activation", spec.ACTIVATIONS)
@pytest.mark.parametrize("norm", spec.NORMS)
@pytest.mark.parametrize("side", [8, 9, 15, 16, 28, 33])
def test_every_network_turns_images_into_logits(architecture: str, activation: str, norm: str, side: int) -> None:
    network = models.build(architecture, plan(norm, activation, side), seed=0)
    assert network(torch.rand(3, 1, side, side)).shape == (3, 10)


def test_lenet_has_no_padding_so_that_input_normalisation_folds() -> None:
    convolutions = [layer for layer in models.build("lenet", MNIST, seed=0) if isinstance(layer, nn.Conv2d)]
    assert [(layer.kernel_size, layer.padding) for layer in convolutions] == [((5, 5), (0, 0))] * 2


def test_lenet_handles_images_that_are_not_square() -> None:
    tall = Plan(image_shape=(3, 40, 20), classes=7)
    assert models.build("lenet", tall, seed=0)(torch.rand(2, 3, 40, 20)).shape == (2, 7)


def test_lenet_refuses_images_that_its_layers_would_use_up() -> None:
    with pytest.raises(ModelError, match="8x8 pixels or more; these are 7x9"):
        models.build("lenet", Plan(image_shape=(1, 7, 9), classes=10), seed=0)


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="'resnet' given; expected one of mlp, lenet"):
        models.build("resnet", MNIST, seed=0)


def test_hidden_layers_have_the_units_asked_for() -> None:
    network = models.build("mlp", Plan(image_shape=(1, 8, 8), classes=3, hidden=(7, 5)), seed=0)
    assert [layer.out_features for layer in network if isinstance(layer, nn.Linear)] == [7, 5, 3]


@pytest.mark.parametrize("architecture", spec.ARCHITECTURES)
def test_initial_weights_depend_on_the_seed_alone(architecture: str) -> None:
    tiny = Plan(image_shape=(1, 16, 16), classes=10, width=1 / 16)
    torch.manual_seed(1)
    first = models.build(architecture, tiny, seed=5).state_dict()
    torch.manual_seed(2)
    again = models.build(architecture, tiny, seed=5).state_dict()
    other = models.build(architecture, tiny, seed=6).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["logits.weight"], other["logits.weight"])


def test_the_largest_seed_is_usable() -> None:
    models.build("mlp", DIGITS, seed=2**63 - 1)


def test_initial_weights_are_small_and_gaussian_and_biases_zero() -> None:
    network = models.build("mlp", plan("none"), seed=0)
    layer = next(layer for layer in network if isinstance(layer, nn.Linear))
    weights = layer.weight.detach()
    assert abs(float(weights.mean())) < 5 * INITIAL_STD / weights.numel() ** 0.5
    assert float(weights.std()) == pytest.approx(INITIAL_STD, rel=0.02)
    assert float(((weights / weights.std()) ** 4).mean()) == pytest.approx(3, abs=0.15)
    assert not layer.bias.any()

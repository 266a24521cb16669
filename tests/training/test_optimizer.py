from __future__ import annotations

import pytest
import torch
from torch import nn

from batchyard.training.flat import ALIGNMENT, FlatParameters
from batchyard.training.sgd import SGD
from batchyard.training.spec import OptimizerSpec


def a_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 6 * 6, 5, bias=False))


def loss_of(network: nn.Module, step: int) -> torch.Tensor:
    inputs = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(step))
    loss: torch.Tensor = network(inputs).square().sum()
    return loss


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_every_step_gives_the_same_bits_as_torch_sgd(momentum: float, weight_decay: float) -> None:
    ours, theirs = a_network(), a_network()
    flat = FlatParameters(ours)
    mine = SGD(flat, OptimizerSpec(learning_rate=0.01, momentum=momentum, weight_decay=weight_decay))
    weights = [p for p in theirs.parameters() if p.ndim >= 2]
    others = [p for p in theirs.parameters() if p.ndim < 2]
    groups = [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    reference = torch.optim.SGD(groups, lr=0.01, momentum=momentum)
    for step in range(5):
        flat.begin_step(stop=False)
        torch.autograd.backward(loss_of(ours, step))
        mine.step()
        reference.zero_grad()
        torch.autograd.backward(loss_of(theirs, step))
        reference.step()
    for actual, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(actual, expected)


def test_parameters_keep_their_values_when_they_move() -> None:
    network = a_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    FlatParameters(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_each_parameter_begins_on_a_cache_line() -> None:
    network = a_network()
    flat = FlatParameters(network)
    start = flat.values.data_ptr()
    assert all((p.data_ptr() - start) % (4 * ALIGNMENT) == 0 for p in network.parameters())


def test_tied_weights_stay_tied() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    flat = FlatParameters(nn.Sequential(first, second))
    assert first.weight.data_ptr() == second.weight.data_ptr()
    assert len(flat.values) == 16 + 2 * ALIGNMENT


def test_a_vote_to_stop_travels_with_the_gradients() -> None:
    flat = FlatParameters(a_network())
    flat.begin_step(stop=True)
    assert flat.summands.sum().item() == 1
    assert flat.votes() == (True, False)
    assert not flat.gradients.any()
    flat.begin_step(stop=False)
    assert flat.votes() == (False, False)


def test_weight_decay_spares_biases_gamma_and_beta() -> None:
    network = a_network()
    flat = FlatParameters(network)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    flat.begin_step(stop=False)
    SGD(flat, OptimizerSpec(learning_rate=0.5, weight_decay=0.5)).step()
    for name, value in network.named_parameters():
        assert torch.equal(value, before[name] * (0.75 if value.ndim >= 2 else 1.0))

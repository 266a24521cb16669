from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from batchyard.training import optimizers
from batchyard.training.flat import ALIGNMENT, FlatParameters
from batchyard.training.spec import OptimizerSpec

Reference = Callable[[nn.Module], torch.optim.Optimizer]


def a_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 6 * 6, 5))


def loss_of(network: nn.Module, step: int) -> torch.Tensor:
    inputs = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(step)).to(next(network.parameters()).dtype)
    loss: torch.Tensor = network(inputs).square().sum()
    return loss


def begin(flat: FlatParameters) -> None:
    flat.begin_step(stop=False, pause=False)


def groups_of(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """As one writes it by hand: decay for weights, none for biases, gamma and beta."""
    weights = [p for p in network.parameters() if p.ndim >= 2]
    others = [p for p in network.parameters() if p.ndim < 2]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def train_both(spec: OptimizerSpec, reference: Reference, *, scaled: bool = False) -> tuple[nn.Module, nn.Module]:
    """Two networks after 20 steps at a falling rate, one with ours, one with torch's optimiser."""
    ours, theirs = a_network(), a_network()
    flat = FlatParameters(ours)
    mine, other = optimizers.build(spec, ours, flat, scaled=scaled), reference(theirs)
    for step in range(20):
        rate = spec.learning_rate * 0.9**step
        begin(flat)
        torch.autograd.backward(loss_of(ours, step))
        mine.step(rate)
        for group in other.param_groups:
            group["lr"] = rate
        other.zero_grad()
        torch.autograd.backward(loss_of(theirs, step))
        other.step()
    return ours, theirs


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_sgd_gives_the_same_bits_as_torch(momentum: float, nesterov: bool, weight_decay: float) -> None:
    spec = OptimizerSpec(learning_rate=0.01, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    ours, theirs = train_both(
        spec, lambda n: torch.optim.SGD(groups_of(n, weight_decay), 0.01, momentum=momentum, nesterov=nesterov)
    )
    for actual, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adamw_gives_the_weights_of_torch(weight_decay: float) -> None:
    spec = OptimizerSpec(name="adamw", learning_rate=0.01, weight_decay=weight_decay, betas=(0.8, 0.95), eps=1e-6)
    ours, theirs = train_both(
        spec, lambda n: torch.optim.AdamW(groups_of(n, weight_decay), 0.01, betas=(0.8, 0.95), eps=1e-6)
    )
    for actual, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_sgd_of_scaled_gradients_gives_the_weights_of_torch() -> None:
    spec = OptimizerSpec(learning_rate=0.01, momentum=0.9, nesterov=True, weight_decay=0.05)
    ours, theirs = train_both(
        spec, lambda n: torch.optim.SGD(groups_of(n, 0.05), 0.01, momentum=0.9, nesterov=True), scaled=True
    )
    for actual, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_lars_gives_the_weights_of_its_formula_written_out() -> None:
    spec = OptimizerSpec(name="lars", learning_rate=0.01, momentum=0.9, weight_decay=0.1, trust_coefficient=0.5)
    ours, theirs = a_network(), a_network().double()
    with torch.no_grad():
        for network in (ours, theirs):
            network.get_parameter("3.weight").zero_()  # a layer without size is trusted as it is
    flat = FlatParameters(ours)
    mine = optimizers.build(spec, ours, flat)
    velocity = [torch.zeros_like(p) for p in theirs.parameters()]
    for step in range(20):
        begin(flat)
        torch.autograd.backward(loss_of(ours, step))
        mine.step(spec.learning_rate)
        theirs.zero_grad()
        torch.autograd.backward(loss_of(theirs, step))
        for weight, v in zip(theirs.parameters(), velocity, strict=True):
            lars_step(weight, v, spec)
    for actual, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def lars_step(weight: torch.Tensor, velocity: torch.Tensor, spec: OptimizerSpec) -> None:
    assert weight.grad is not None
    direction = weight.grad
    if weight.ndim >= 2:
        size, slope = weight.norm(), direction.norm()
        trust = spec.trust_coefficient * size / (slope + spec.weight_decay * size + spec.eps)
        direction = (direction + spec.weight_decay * weight) * (trust if size > 0 and slope > 0 else 1.0)
    velocity.mul_(spec.momentum).add_(direction)
    weight -= spec.learning_rate * velocity


@pytest.mark.parametrize("spec", [
    pytest.param(OptimizerSpec(momentum=0.9, learning_rate=0.01), id="sgd"),
    pytest.param(OptimizerSpec(name="adamw", learning_rate=0.01), id="adamw"),
    pytest.param(OptimizerSpec(name="lars", momentum=0.9), id="lars"),
])  # fmt: skip
def test_an_optimizer_goes_on_from_its_state_with_the_same_bits(spec: OptimizerSpec) -> None:
    def steps(network: nn.Module, flat: FlatParameters, optimizer: optimizers.Optimizer, numbers: range) -> None:
        for step in numbers:
            begin(flat)
            torch.autograd.backward(loss_of(network, step))
            optimizer.step(spec.learning_rate)

    one, other = a_network(), a_network()
    flat = FlatParameters(one)
    first = optimizers.build(spec, one, flat)
    steps(one, flat, first, range(3))
    second_flat = FlatParameters(other)
    second = optimizers.build(spec, other, second_flat)
    second.load_state_dict({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in first.state_dict().items()})
    other.load_state_dict(one.state_dict())
    steps(one, flat, first, range(3, 6))
    steps(other, second_flat, second, range(3, 6))
    assert torch.equal(flat.values, second_flat.values)


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
    assert flat.votes() == (True, False, False)
    assert not flat.gradients.any()
    flat.begin_step(stop=False)
    assert flat.votes() == (False, False, False)


def test_weight_decay_spares_biases_gamma_and_beta() -> None:
    network = a_network()
    flat = FlatParameters(network)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    begin(flat)
    optimizers.build(OptimizerSpec(learning_rate=0.5, weight_decay=0.5), network, flat).step(0.5)
    for name, value in network.named_parameters():
        assert torch.equal(value, before[name] * (0.75 if value.ndim >= 2 else 1.0))

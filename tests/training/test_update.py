"""From gradients to weights: clipping, averages, loss scaling, losses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from batchyard.training.ema import ModelAverage
from batchyard.training.flat import FlatParameters
from batchyard.training.losses import loss_sum
from batchyard.training.spec import TrainingJobSpec
from batchyard.training.update import Update, clip_


def a_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Sigmoid(), nn.Linear(5, 3))


def a_spec(**keys: Any) -> TrainingJobSpec:
    least = {"name": "a", "model": {"architecture": "mlp"}, "data": {"dataset": "digits"}, "steps": 20}
    return TrainingJobSpec.from_mapping({**least, **keys})


def a_batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(step)
    return torch.randn(8, 6, generator=random) * 40, torch.randint(0, 3, (8,), generator=random)


def steps(network: nn.Module, flat: FlatParameters, update: Update, numbers: range) -> None:
    for step in numbers:
        flat.begin_step(stop=False, pause=False)
        images, labels = a_batch(step)
        update.backward(F.cross_entropy(network(images), labels))
        update.apply(step)


def test_clipping_scales_all_gradients_together_as_torch_does() -> None:
    ours, theirs = a_network(), a_network()
    flat = FlatParameters(ours)
    for network in (ours, theirs):
        (network(a_batch(0)[0]).square().sum() * 100).backward()
    clip_(flat.gradients, 0.5)
    nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
    for actual, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad)


def test_a_gradient_shorter_than_the_limit_stays_as_it_is() -> None:
    gradients = torch.tensor([3.0, 4.0])
    clip_(gradients, 5.1)
    assert gradients.tolist() == [3.0, 4.0]


def test_the_average_of_weights_and_statistics_is_that_of_torch() -> None:
    network = a_network()
    flat = FlatParameters(network)
    average = ModelAverage(network, flat, 0.7)
    decay = get_ema_multi_avg_fn(0.7)  # type: ignore[no-untyped-call]
    reference = AveragedModel(network, multi_avg_fn=decay, use_buffers=True)
    for step in range(20):
        network(a_batch(step)[0])  # moves the running statistics
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)))
        average.update()
        reference.update_parameters(network)
    live = copy.deepcopy(network.state_dict())
    with average.in_place():
        for name, value in reference.module.state_dict().items():
            if value.is_floating_point():
                torch.testing.assert_close(network.state_dict()[name], value, msg=name)
    assert all(torch.equal(value, live[name]) for name, value in network.state_dict().items())


def test_the_rate_follows_the_schedule() -> None:
    network = a_network()
    flat = FlatParameters(network)
    update = Update(a_spec(schedule={"name": "step", "every_steps": 2, "factor": 0.5}), network, flat, 20)
    rates = []
    for step in range(1, 6):
        steps(network, flat, update, range(step, step + 1))
        rates.append(update.learning_rate)
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025])


EVERYTHING = {
    "optimizer": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
    "schedule": {"name": "cosine", "warmup_steps": 3},
    "clip_norm": 0.1,
    "ema_decay": 0.9,
}


def test_an_update_goes_on_from_its_state_with_the_same_bits() -> None:
    one, other = a_network(), a_network()
    flat, other_flat = FlatParameters(one), FlatParameters(other)
    first = Update(a_spec(**EVERYTHING), one, flat, 20)
    steps(one, flat, first, range(1, 8))
    second = Update(a_spec(**EVERYTHING), other, other_flat, 20)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    other.load_state_dict(one.state_dict())
    steps(one, flat, first, range(8, 12))
    steps(other, other_flat, second, range(8, 12))
    assert torch.equal(flat.values, other_flat.values)
    first.finish()
    second.finish()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_sums_to_the_batch_however_it_is_shared(smoothing: float) -> None:
    logits, labels = torch.randn(7, 5) * 30, torch.randint(0, 5, (7,))
    loss = loss_sum("cross_entropy", smoothing)
    parts = loss(logits[:2], labels[:2]) + loss(logits[2:], labels[2:])
    torch.testing.assert_close(parts / 7, F.cross_entropy(logits, labels, label_smoothing=smoothing))


def test_mse_sums_to_the_batch_however_it_is_shared() -> None:
    logits, labels = torch.randn(7, 5) * 30, torch.randint(0, 5, (7,))
    loss = loss_sum("mse")
    parts = loss(logits[:2], labels[:2]) + loss(logits[2:], labels[2:])
    torch.testing.assert_close(parts / 7, F.mse_loss(logits, F.one_hot(labels, 5).float()))


OPTIMIZERS = [
    pytest.param({"name": "sgd", "learning_rate": 0.01, "momentum": 0.9}, id="sgd"),
    pytest.param({"name": "adamw", "learning_rate": 0.01}, id="adamw"),
    pytest.param({"name": "lars", "learning_rate": 1.0, "momentum": 0.9}, id="lars"),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_a_scaled_loss_gives_the_steps_of_one_that_is_not(optimizer: dict[str, Any], clip_norm: float | None) -> None:
    keys = {"optimizer": optimizer, "clip_norm": clip_norm}
    plain, scaled = a_network(), a_network()
    flat, scaled_flat = FlatParameters(plain), FlatParameters(scaled)
    steps(plain, flat, Update(a_spec(**keys), plain, flat, 20), range(1, 11))
    half = a_spec(**keys, precision="fp16", workers={"gpus_per_worker": 1})
    steps(scaled, scaled_flat, Update(half, scaled, scaled_flat, 20), range(1, 11))
    torch.testing.assert_close(scaled_flat.values, flat.values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_a_step_whose_scaled_gradients_overflow_is_left_out_and_the_scale_halved(
    optimizer: dict[str, Any], clip_norm: float | None
) -> None:
    network = a_network()
    flat = FlatParameters(network)
    half = a_spec(optimizer=optimizer, clip_norm=clip_norm, precision="fp16", workers={"gpus_per_worker": 1})
    update = Update(half, network, flat, 20)
    steps(network, flat, update, range(1, 4))
    before, scale = flat.values.clone(), update.state_dict()["scaler.scale"]
    flat.begin_step(stop=False, pause=False)
    update.backward(network(a_batch(4)[0]).sum())
    flat.gradients[3] = torch.inf
    update.apply(4)
    assert torch.equal(flat.values, before)
    assert update.state_dict()["scaler.scale"] == pytest.approx(float(scale) / 2)
    steps(network, flat, update, range(5, 6))
    assert not torch.equal(flat.values, before)
    assert flat.values.isfinite().all()

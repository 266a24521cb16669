from __future__ import annotations

import pytest
import torch
from torch import nn

from batchyard.nn import fold
from batchyard.training import oracle_cost
from batchyard.training.oracle_cost import LEAST_SAMPLES, affordable, multiply_adds


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        pytest.param(nn.Linear(20, 30), (1, 20), 20 * 30, id="linear"),
        pytest.param(nn.Conv2d(4, 6, 3, padding=1), (1, 4, 8, 8), 4 * 6 * 9 * 64, id="convolution"),
        pytest.param(nn.Conv2d(4, 6, 3, stride=2, padding=1), (1, 4, 8, 8), 4 * 6 * 9 * 16, id="strided"),
        pytest.param(nn.Conv2d(4, 8, 3, padding=1, groups=4), (1, 4, 8, 8), 8 * 9 * 64, id="grouped"),
        pytest.param(nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 8, 8), 4 * 6 * 4 * 64, id="transposed"),
        pytest.param(nn.Sequential(nn.Conv1d(3, 5, 1), nn.BatchNorm1d(5)), (1, 3, 7), 3 * 5 * 7, id="folded"),
    ],
)
def test_every_multiplication_of_a_layer_is_counted(layer: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    folded = fold(nn.Sequential(layer).eval(), (torch.randn(shape),))

    assert multiply_adds(folded.module, torch.randn(shape)) == expected


@pytest.mark.parametrize(("budget", "expected"), [(10**9, 512), (100 * 600, 100), (1, LEAST_SAMPLES)])
def test_a_costly_network_is_certified_on_its_first_samples_and_a_cheap_one_on_all(
    budget: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oracle_cost, "MOST_MULTIPLY_ADDS", budget)
    samples = torch.randn(512, 20)

    chosen = affordable(nn.Linear(20, 30), samples)

    assert torch.equal(chosen, samples[:expected])


def test_fewer_samples_than_the_least_are_taken_as_they_are() -> None:
    assert len(affordable(nn.Linear(20, 30), torch.randn(3, 20))) == 3

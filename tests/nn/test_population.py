"""population_statistics: what inference uses instead of a batch's own statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from batchyard.nn import SyncBatchNorm, population_statistics


def network() -> Any:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(4, 6), SyncBatchNorm(6), nn.Sigmoid(), nn.Dropout(0.5), nn.Linear(6, 2), SyncBatchNorm(2)
    )


def batches(sizes: list[int]) -> list[Tensor]:
    return [torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) * 2 + 1 for n in sizes]


def inputs_of_first_norm(model: Any, given: list[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [model[0](x).double() for x in given]


def test_alg2_is_the_mean_of_batch_means_and_of_unbiased_batch_variances() -> None:
    model, given = network(), batches([10, 10, 10])
    population_statistics(model, given, "alg2")
    zs = inputs_of_first_norm(model, given)
    mean, var = torch.stack([z.mean(0) for z in zs]).mean(0), torch.stack([z.var(0) for z in zs]).mean(0)
    torch.testing.assert_close(model[1].running_mean.double(), mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model[1].running_var.double(), var, rtol=1e-6, atol=1e-6)
    assert model.training
    assert model[1].momentum == 0.1


def test_population_is_that_of_all_samples_whatever_the_batches() -> None:
    model, given = network(), batches([3, 50, 2, 9])
    population_statistics(model, given, "population")
    z = torch.cat(inputs_of_first_norm(model, given))
    torch.testing.assert_close(model[1].running_mean.double(), z.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model[1].running_var.double(), z.var(0), rtol=1e-6, atol=1e-6)


def test_cumulative_and_ema_are_those_of_torch() -> None:
    for method, momentum in (("cumulative", None), ("ema", 0.1)):
        model, given = network(), batches([10, 12, 9])
        reference = nn.BatchNorm1d(6, momentum=momentum)
        for z in inputs_of_first_norm(model, given):
            reference(z.float())
        population_statistics(model, [(x, torch.zeros(len(x))) for x in given], method)
        torch.testing.assert_close(model[1].running_mean, reference.running_mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model[1].running_var, reference.running_var, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["alg2", "population", "cumulative", "ema"])
def test_torchs_own_layers_get_what_ours_get(method: str) -> None:
    ours, theirs = network(), network()
    theirs[1], theirs[5] = nn.BatchNorm1d(6), nn.BatchNorm1d(2)
    for model in (ours, theirs):
        population_statistics(model, batches([10, 12, 9]), method)
    torch.testing.assert_close(theirs.state_dict(), ours.state_dict())


def test_moving_averages_of_training_may_be_kept_as_they_are() -> None:
    model = network()
    model(batches([20])[0])
    before = model[1].running_var.clone()
    population_statistics(model, [], "ema")
    assert torch.equal(model[1].running_var, before)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="'mean'; expected one of alg2"):
        population_statistics(network(), batches([4]), "mean")
    with pytest.raises(ValueError, match="no batches were given"):
        population_statistics(network(), [])
    with pytest.raises(ValueError, match="layer '1' are not finite"):
        population_statistics(network(), [torch.full((4, 4), torch.nan)])


def one_share(rank: int, method: str, given: list[list[Tensor]]) -> dict[str, Tensor]:
    model = network()
    population_statistics(model, [shares[rank] for shares in given], method)
    state: dict[str, Tensor] = model.state_dict()
    return state


@pytest.mark.parametrize("method", ["alg2", "population", "cumulative", "ema"])
def test_workers_agree_on_what_one_process_would_find(workers: Any, method: str) -> None:
    whole = batches([10, 12, 9])
    given = [list(torch.split(x, [len(x) - 4, 4, 0])) for x in whole]
    states = workers.run(3, one_share, method, given)
    model = network()
    population_statistics(model, whole, method)
    for name, value in model.state_dict().items():
        assert all(torch.equal(s[name], states[0][name]) for s in states), name
        torch.testing.assert_close(states[0][name], value, rtol=1e-5, atol=1e-6)

"""ActivationStats: percentiles, saturation, dead units, drift and spread of every layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from batchyard.nn import ActivationStats, SyncBatchNorm, certify, fold, normalizer, sync_group


def network(activation: type[nn.Module] = nn.Sigmoid) -> Any:
    torch.manual_seed(1)
    model: Any = nn.Sequential(nn.Linear(4, 50), SyncBatchNorm(50), activation(), nn.Linear(50, 3))
    nn.init.normal_(model[1].weight, 2.0, 0.3)
    nn.init.normal_(model[1].bias, 1.0, 0.5)
    return model


def test_percentiles_are_those_of_the_input_of_the_nonlinearity() -> None:
    model, x = network(), torch.randn(200, 4)
    stats = ActivationStats(model)
    z = model[:2](x).detach()
    (layer,) = stats.collect()
    sigma = z.std().item()
    for value, p in ((layer.p15, 0.15), (layer.p50, 0.50), (layer.p85, 0.85)):
        assert abs(value - z.quantile(p).item()) < 0.06 * sigma
    assert layer.name == "1"
    assert layer.saturated == pytest.approx((z.abs() > 4).double().mean().item(), abs=1e-6)
    assert (layer.samples, layer.skipped, layer.worker_spread) == (200, 0, None)


def test_a_network_without_normalisation_is_measured_at_its_activations() -> None:
    model = nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 3), nn.ReLU())
    stats = ActivationStats(model)
    x = torch.randn(300, 4)
    model(x)
    layers = stats.collect()
    z = model[0](x).detach()
    assert [layer.name for layer in layers] == ["1", "3"]
    assert abs(layers[0].p85 - z.quantile(0.85).item()) < 0.06 * z.std().item()
    assert layers[0].drift is None


def test_dead_units_are_those_that_let_no_gradient_through() -> None:
    model = network(nn.ReLU)
    with torch.no_grad():
        model[1].weight[:10] = 0
        model[1].bias[:10] = -1
    stats = ActivationStats(model)
    for _ in range(2):  # the first pass finds out that a ReLU follows
        model(torch.randn(100, 4))
        (layer,) = stats.collect()
    assert layer.dead == pytest.approx(0.2)
    assert layer.saturated == 0


def test_drift_tells_a_batch_that_differs_from_the_running_statistics() -> None:
    model = network()
    stats = ActivationStats(model)
    for _ in range(100):
        model(torch.randn(500, 4))
    stats.collect()
    model(torch.randn(500, 4))
    usual = stats.collect()[0].drift
    model(torch.randn(500, 4) + 3)
    later = stats.collect()[0].drift
    assert later is not None
    assert usual is not None
    assert later > 10 * usual


def test_nothing_is_measured_when_off_in_evaluation_or_detached() -> None:
    model, x = network(), torch.randn(20, 4)
    stats = ActivationStats(model)
    stats.enabled = False
    model(x)
    assert stats.collect() == []
    stats.enabled = True
    model.eval()(x)
    assert stats.collect() == []
    stats.detach()
    model.train()(x)
    assert stats.collect() == []


def test_a_watched_network_folds() -> None:
    model, x = network(), torch.randn(20, 4)
    stats = ActivationStats(model)
    model(x)
    folded = fold(model, (x,))
    assert [e.status for e in folded.report] == ["folded"]
    assert certify(folded, model, (x,)).passed
    stats.detach()


def test_several_forward_passes_add_up_as_one_batch() -> None:
    model, x = network(), torch.randn(400, 4)
    stats = ActivationStats(model)
    model(x[:10])
    stats.collect()  # finds out that a sigmoid follows
    for part in torch.split(x, 20):  # more parts than are kept apart
        model(part)
    (layer,) = stats.collect()
    assert layer.samples == 400
    assert layer.smallest_batch == 20
    z = torch.cat([model[:2](part) for part in torch.split(x, 20)]).detach()
    assert layer.saturated == pytest.approx((z.abs() > 4).double().mean().item(), abs=1e-6)
    assert abs(layer.p50 - z.median().item()) < 0.06 * z.std().item()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "units": (network, (4,)),
    "units without BN": (lambda: nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 3), nn.ReLU()), (4,)),
    "images": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3), SyncBatchNorm(16), nn.ReLU(inplace=True), nn.Conv2d(16, 5, 3), SyncBatchNorm(5)
        ),
        (3, 40, 40),
    ),
    "odd images without BN": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 2), nn.Sigmoid(), nn.Conv2d(3, 1, 2), nn.ReLU()),
        (1, 9, 7),
    ),
    "more channels than one thread adds up": (
        lambda: nn.Sequential(nn.Linear(4, 5000), SyncBatchNorm(5000), nn.Tanh()),
        (4,),
    ),
}
"""Networks and the shapes of their samples."""
SPLITS = [(13, 27), (27, 13), (10, 20, 10), (40,), (10, 20, 10)]
"""Sizes of the batches that each point consists of."""


def points_of(name: str, *, at_once: int, seed: int = 0) -> list[Any]:
    """What points of fixed data show, collected by so many."""
    build, shape = NETWORKS[name]
    torch.manual_seed(1)
    model = build()
    stats, found = ActivationStats(model), list[Any]()
    torch.manual_seed(seed)
    for number, sizes in enumerate(SPLITS, 1):
        for part in torch.split(torch.randn(40, *shape) * 10 ** (number - 3), list(sizes)):
            model(part)
        stats.end_point()
        found += stats.collect_points() if number % at_once == 0 or number == len(SPLITS) else []
    return found


@pytest.mark.parametrize("network", NETWORKS)
def test_points_that_are_collected_together_show_what_they_show_alone(network: str) -> None:
    alone = points_of(network, at_once=1)
    assert len(alone) == len(SPLITS)
    for at_once in (2, len(SPLITS)):
        assert points_of(network, at_once=at_once) == alone


def points_of_a_worker(rank: int, name: str) -> list[Any]:
    return [points_of(name, at_once=at_once, seed=rank) for at_once in (1, 2, len(SPLITS))]


@pytest.mark.parametrize("network", ["units", "images"])
def test_points_of_two_workers_that_are_collected_together_show_what_they_show_alone(
    workers: Any, network: str
) -> None:
    alone, in_pairs, together = workers.run(2, points_of_a_worker, network)[0]
    assert alone == in_pairs == together


def all_reduces_of_a_worker(rank: int, model: nn.Module) -> tuple[int, int]:
    """How many one collection of four points makes, and at how many layers."""
    made, real = [0], dist.all_reduce

    def counting(*arguments: Any, **options: Any) -> Any:
        made[0] += 1
        return real(*arguments, **options)

    stats = ActivationStats(model)
    for _ in range(4):
        model(torch.randn(20, 4))
        stats.end_point()
    dist.all_reduce = counting
    try:
        points = stats.collect_points()
    finally:
        dist.all_reduce = real
    return made[0], len(points[0])


@pytest.mark.parametrize(
    ("norm", "expected"), [("batch", 1), ("standardize_post", 2), ("renorm", 2), ("none", 2)], ids=str
)
def test_one_all_reduce_tells_all_points_of_all_layers_where_normalisation_says_what_to_expect(
    workers: Any, norm: str, expected: int
) -> None:
    layers = [[nn.Linear(4, 4), normalizer(norm, 4), nn.Sigmoid()] for _ in range(3)]
    model = nn.Sequential(*[each for layer in layers for each in layer])
    assert workers.run(2, all_reduces_of_a_worker, model) == [(expected, 3)] * 2


@pytest.mark.parametrize("norm", ["batch", "renorm", "detached"])
def test_percentiles_are_right_however_far_gamma_and_beta_are_from_where_they_began(norm: str) -> None:
    torch.manual_seed(3)
    model: Any = nn.Sequential(nn.Linear(4, 50), normalizer(norm, 50), nn.Sigmoid())
    for parameter in model[1].parameters():
        nn.init.normal_(parameter, 30.0, 10.0)
    stats = ActivationStats(model)
    z = model[:2](torch.randn(120, 4) * 100 - 300).detach()
    (layer,) = stats.collect()
    for value, p in ((layer.p15, 0.15), (layer.p50, 0.50), (layer.p85, 0.85)):
        assert abs(value - z.quantile(p).item()) < 0.06 * z.std().item()


def test_many_forward_passes_at_one_point_keep_a_bounded_number_of_values() -> None:
    model = nn.Sequential(nn.Linear(4, 1000), nn.Tanh())
    stats = ActivationStats(model)
    for _ in range(20):
        model(torch.randn(10, 4))
    (layer,) = stats.collect()
    assert layer.samples == 70  # 7 passes of 10,000 values reach 65,536


def test_it_is_full_after_sixteen_points() -> None:
    model = network()
    stats = ActivationStats(model)
    for _ in range(16):
        assert not stats.full
        model(torch.randn(5, 4))
        stats.end_point()
    assert stats.full
    assert len(stats.collect_points()) == 16
    assert not stats.full


def test_values_that_are_not_numbers_do_not_move_the_percentiles_of_other_layers() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 50), SyncBatchNorm(50), nn.Sigmoid(), nn.Linear(50, 5), SyncBatchNorm(5))
    stats = ActivationStats(model)
    x = torch.randn(200, 4)
    model(x)
    healthy = stats.collect()[0]
    with torch.no_grad():
        model[3].weight.fill_(torch.nan)  # type: ignore[operator]
    model(x)
    first, second = stats.collect()
    assert first.p50 == pytest.approx(healthy.p50, abs=0.05)
    assert second.skipped == 1


def test_convolutions_are_measured_with_the_first_samples_and_an_activation_in_place() -> None:
    torch.manual_seed(1)
    hidden = [nn.Conv2d(3, 8, 3), SyncBatchNorm(8), nn.ReLU(inplace=True)]
    model: Any = nn.Sequential(*hidden, nn.Conv2d(8, 4, 3), SyncBatchNorm(4))
    stats = ActivationStats(model)
    x = torch.randn(64, 3, 40, 40)
    for _ in range(2):
        model(x)
        first, second = stats.collect()
    z = model[1](model[0](x)).detach()
    for value, p in ((first.p15, 0.15), (first.p50, 0.50), (first.p85, 0.85)):
        assert abs(value - z.flatten()[::7].quantile(p).item()) < 0.06
    assert (first.samples, first.smallest_batch) == (8 * 38 * 38, 64 * 38 * 38)
    assert (second.samples, second.smallest_batch) == (8 * 36 * 36, 64 * 36 * 36)


def test_what_normalises_after_the_nonlinearity_is_measured_before_it() -> None:
    model = nn.Sequential(nn.Linear(4, 50), nn.Tanh(), normalizer("standardize_post", 50))
    stats = ActivationStats(model)
    model(torch.randn(30, 4))
    (layer,) = stats.collect()
    assert (layer.name, layer.smallest_batch) == ("1", None)


def test_the_smallest_batch_is_what_shares_its_statistics() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), SyncBatchNorm(8, ghost_size=4))
    stats = ActivationStats(model)
    model(torch.randn(11, 3, 5, 5))
    assert stats.collect()[0].smallest_batch == 3 * 3 * 3  # 11 samples in ghost batches of 4, 4 and 3


def batches_of_groups(rank: int, sizes: list[int]) -> list[int | None]:
    pair = sync_group(2)
    layers = [SyncBatchNorm(3), SyncBatchNorm(3, process_group=pair), nn.BatchNorm1d(3)]
    stats = ActivationStats(nn.Sequential(*layers))
    for layer in layers:
        layer(torch.randn(sizes[rank], 3))
    return [layer.smallest_batch for layer in stats.collect()]


def test_over_workers_the_smallest_batch_is_that_of_all_of_a_pair_or_of_each(workers: Any) -> None:
    for found in workers.run(4, batches_of_groups, [5, 2, 3, 9]):
        assert found == [19, 7, 2]


def one_share(rank: int, xs: list[Tensor]) -> list[Any]:
    model = network()
    stats = ActivationStats(model)
    model(xs[rank])
    return stats.collect()


def test_workers_report_what_one_process_sees_and_how_far_they_are_apart(workers: Any) -> None:
    x = torch.randn(90, 4)
    x[:30] += 2
    results = workers.run(3, one_share, list(torch.split(x, [30, 60, 0])))
    assert results[0] == results[1] == results[2]
    model = network()
    stats = ActivationStats(model)
    model(x)
    (alone,), (together,) = stats.collect(), results[0]
    for field in ("p15", "p50", "p85", "saturated", "dead", "drift"):
        assert getattr(together, field) == pytest.approx(getattr(alone, field), abs=1e-5), field
    assert together.samples == 90
    z = model[0](x).double()
    means = torch.stack([z[:30].mean(0), z[30:].mean(0)])
    between = ((means - z.mean(0)).square() * torch.tensor([[1 / 3], [2 / 3]])).sum(0)
    assert together.worker_spread == pytest.approx((between / z.var(0, correction=0)).mean().sqrt().item(), rel=1e-4)

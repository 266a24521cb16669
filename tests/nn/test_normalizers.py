"""The comparison modes: what each is for, seen in numbers, and that workers share a batch in each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from batchyard.nn import certify, fold, normalizer, placement
from batchyard.nn.whitening import ZCAWhitening

MODES = ["batch", "detached", "standardize_detached", "standardize_post", "zca", "iternorm", "renorm"]


def correlated(samples: int, channels: int = 6) -> Tensor:
    mixing = torch.randn(channels, channels, generator=torch.Generator().manual_seed(3)) + torch.eye(channels)
    return torch.randn(samples, channels) @ mixing + 2


@pytest.mark.parametrize("name", MODES)
def test_training_gives_mean_zero_and_deviation_one(name: str) -> None:
    y = normalizer(name, 6, **({"r_max": 1.0, "d_max": 0.0} if name == "renorm" else {}), eps=1e-9)(correlated(500))
    torch.testing.assert_close(y.mean(0), torch.zeros(6), rtol=0, atol=1e-5)
    if name != "iternorm":  # five iterations come near
        torch.testing.assert_close(y.std(0, correction=0), torch.ones(6), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", MODES)
def test_evaluation_uses_what_training_gathered(name: str) -> None:
    layer, x = normalizer(name, 6, momentum=1.0), correlated(5000)
    for _ in range(2):
        y = layer(x)
    layer.eval()
    torch.testing.assert_close(layer(x), y, rtol=1e-2, atol=1e-2)
    assert layer(x[:1]).shape == (1, 6)


def steps_with(name: str, count: int) -> tuple[float, float]:
    """Trains a linear layer with bias before a normalisation; returns how far the bias went, and the largest loss."""
    torch.manual_seed(0)
    linear, norm, direction = nn.Linear(6, 8), normalizer(name, 8, affine=False), torch.randn(8)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
    x, largest = torch.randn(64, 6), 0.0
    start = linear.bias.detach().clone()
    for _ in range(count):
        loss = (norm(linear(x)) @ direction).mean()  # the mean of a normalised batch: 0, whatever the bias
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        largest = max(largest, abs(loss.item()))
    return float((linear.bias.detach() - start).norm()), largest


def test_detached_lets_the_bias_grow_without_end_while_the_loss_stays_as_section_2_says() -> None:
    (short, _), (long, loss), (exact, _) = (
        steps_with("detached", 50),
        steps_with("detached", 400),
        steps_with("batch", 400),
    )
    assert long > 2 * short > 1
    assert loss < 1e-3
    assert exact < 1e-3


def test_a_moved_bias_changes_neither_output_nor_loss() -> None:
    x, norm = correlated(50), normalizer("detached", 6)
    torch.testing.assert_close(norm(x + 3), norm(x), rtol=1e-4, atol=1e-4)


def test_detached_differentiates_only_the_scale() -> None:
    x = correlated(20).requires_grad_()
    norm: Any = normalizer("detached", 6)
    nn.init.uniform_(norm.weight, 0.5, 2)
    dy = torch.randn(20, 6)
    norm(x).backward(dy)
    expected = dy * norm.weight.detach() / (x.detach().var(0, correction=0) + norm.eps).sqrt()
    torch.testing.assert_close(x.grad, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("groups", [2, 6])
def test_zca_makes_the_covariance_the_identity_within_each_group(groups: int) -> None:
    y = normalizer("zca", 6, group_size=groups, eps=1e-12)(correlated(300).double())
    cov = torch.cov(y.T, correction=0)
    blocks = torch.block_diag(  # type: ignore[no-untyped-call]
        *[torch.ones(groups, groups)] * (6 // groups)
    ).bool()
    torch.testing.assert_close(cov[blocks], torch.eye(6, dtype=torch.float64)[blocks], rtol=0, atol=1e-3)


def test_iternorm_comes_nearer_with_every_iteration() -> None:
    x = correlated(300).double()
    errors = []
    for iterations in (1, 3, 5, 9):
        y = normalizer("iternorm", 6, iterations=iterations, affine=False)(x)
        errors.append(float((torch.cov(y.T, correction=0) - torch.eye(6)).norm()))
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("name", ["zca", "iternorm", "batch", "standardize_post"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    layer = normalizer(name, 4, eps=1e-2).double()
    assert torch.autograd.gradcheck(layer, (correlated(7, 4).double().requires_grad_(),), atol=1e-5)


def test_zca_has_a_gradient_where_eigenvalues_are_equal() -> None:
    x = torch.cat([torch.eye(4), -torch.eye(4)]).double().requires_grad_()  # covariance: a multiple of the identity
    (ZCAWhitening(4).double()(x) ** 3).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_renorm_is_inference_within_its_bounds_and_bn_without() -> None:
    x = correlated(40)
    loose: Any = normalizer("renorm", 6, r_max=1e6, d_max=1e6)
    loose.running_mean.fill_(1.0)
    loose.running_var.fill_(4.0)
    torch.testing.assert_close(loose(x), (x - 1) / (4 + 1e-5) ** 0.5, rtol=1e-4, atol=1e-4)
    tight, bn = normalizer("renorm", 6, r_max=1.0, d_max=0.0), nn.BatchNorm1d(6)
    torch.testing.assert_close(tight(x), bn(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["detached", "standardize_detached", "renorm", "standardize_post"])
def test_what_evaluates_like_bn_folds_like_bn(name: str) -> None:
    model = nn.Sequential(nn.Linear(6, 5), normalizer(name, 5), nn.Linear(5, 3))
    model(correlated(50))
    folded = fold(model, (correlated(4),))
    assert [e.status for e in folded.report] == ["folded"]
    assert certify(folded, model, (correlated(4),)).passed


def step_of(rank: int, name: str, xs: list[Tensor], dys: list[Tensor]) -> dict[str, Any]:
    layer = normalizer(name, 6)
    x = xs[rank].detach().requires_grad_()
    y = layer(x)
    y.backward(dys[rank])
    return {"y": y.detach(), "dx": x.grad, "state": layer.state_dict()}


@pytest.mark.parametrize("name", MODES)
def test_workers_share_one_batch(workers: Any, name: str) -> None:
    x, dy = correlated(30), torch.randn(30, 6)
    parts, dys = ([p.clone() for p in torch.split(t, [20, 0, 10])] for t in (x, dy))
    results = workers.run(3, step_of, name, parts, dys)
    alone = normalizer(name, 6)
    whole = x.clone().requires_grad_()
    y = alone(whole)
    y.backward(dy)
    torch.testing.assert_close(torch.cat([r["y"] for r in results]), y.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat([r["dx"] for r in results]), whole.grad, rtol=1e-3, atol=1e-4)
    for key, value in alone.state_dict().items():
        assert all(torch.equal(r["state"][key], results[0]["state"][key]) for r in results), key
        torch.testing.assert_close(results[0]["state"][key], value, rtol=1e-4, atol=1e-5)


def test_names_and_options_that_are_not_known_are_refused() -> None:
    with pytest.raises(ValueError, match="'layer' is not known; expected one of none, batch"):
        normalizer("layer", 3)
    with pytest.raises(ValueError, match="'zca' has no option 'ghost_size'; it has affine"):
        normalizer("zca", 3, ghost_size=4)
    with pytest.raises(ValueError, match="standardize_detached has no gamma and beta"):
        normalizer("standardize_detached", 3, affine=True)
    with pytest.raises(ValueError, match="must divide"):
        normalizer("zca", 6, group_size=4)
    assert isinstance(normalizer("none", 3), nn.Identity)
    assert [placement(name) for name in ("batch", "standardize_post")] == ["before", "after"]

"""Gradients of SyncBatchNorm, and their gradients: against finite differences and the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from batchyard.nn import SyncBatchNorm, normalize_together


def shares(x: Tensor, sizes: list[int]) -> list[Tensor]:
    return [part.clone() for part in torch.split(x, sizes)]


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"ghost_size": 2}, {"momentum": None}], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_first_and_second_derivatives_of_one_process_are_those_of_finite_differences(
    options: dict[str, Any], training: bool
) -> None:
    layer, x = SyncBatchNorm(2, **options).double().train(training), torch.randn(5, 2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(layer, (x.requires_grad_(),))
    assert torch.autograd.gradgradcheck(layer, (x,))


def second_derivatives(rank: int, xs: list[Tensor], weight: Tensor) -> list[Tensor]:
    bn = SyncBatchNorm(3).double()
    with torch.no_grad():
        bn.weight.copy_(weight)
    x = xs[rank].detach().requires_grad_()
    (dx,) = torch.autograd.grad(bn(x).pow(3).sum(), x, create_graph=True)
    loss: Any = dx.pow(2).sum()
    loss.backward()
    assert x.grad is not None
    assert bn.weight.grad is not None
    return [x.grad, bn.weight.grad]


def test_double_backward_is_that_of_the_whole_batch_issue_61222(workers: Any) -> None:
    x, weight = torch.randn(7, 3, 2, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    results = workers.run(3, second_derivatives, shares(x, [4, 0, 3]), weight)
    whole = x.clone().requires_grad_()
    gamma = weight.clone().requires_grad_()

    def norm(x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, (0, 2), correction=0, keepdim=True)
        return (x - mean) * (var + 1e-5).rsqrt() * gamma.view(1, 3, 1)

    (dx,) = torch.autograd.grad(norm(whole).pow(3).sum(), whole, create_graph=True)
    loss: Any = dx.pow(2).sum()
    loss.backward()
    assert whole.grad is not None
    torch.testing.assert_close(torch.cat([r[0] for r in results]), whole.grad, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sum(r[1] for r in results), gamma.grad, rtol=1e-9, atol=1e-9)


def gradients_check(rank: int) -> bool:
    bn = SyncBatchNorm(2).double()
    torch.manual_seed(0)
    x = torch.randn(3 + rank, 2, 2, dtype=torch.float64, requires_grad=True)
    y = bn(x)
    weights = torch.randn(y.shape, dtype=torch.float64)
    (dx,) = torch.autograd.grad((y * weights).sum(), x)
    for i in range(3):  # finite differences: this worker's input moves, every worker's loss counts
        for owner in range(2):
            step = torch.zeros_like(x)
            if rank == owner:
                step.view(-1)[i] = 1e-6
            with torch.no_grad():
                loss = ((bn(x + step) - bn(x - step)) * weights).sum() / 2e-6
            dist.all_reduce(loss)
            if rank == owner and abs(float(loss) - float(dx.view(-1)[i])) > 1e-6:
                return False
    return True


def test_gradients_are_those_of_finite_differences(workers: Any) -> None:
    assert workers.run(2, gradients_check) == [True, True]


def second_derivatives_together(rank: int, xs: list[Tensor]) -> Tensor:
    x = xs[rank].detach().requires_grad_()
    layers = [SyncBatchNorm(2).double(), SyncBatchNorm(3).double()]
    a, b = normalize_together(layers, [x[:, :2], x[:, 2:]])
    (dx,) = torch.autograd.grad(a.pow(3).sum() + b.pow(2).mul(b).sum(), x, create_graph=True)
    dx.pow(2).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    return x.grad


def test_double_backward_of_layers_that_share_a_collective(workers: Any) -> None:
    x = torch.randn(6, 5, dtype=torch.float64)
    (alone,) = workers.run(1, second_derivatives_together, [x])
    spread = torch.cat(workers.run(2, second_derivatives_together, shares(x, [4, 2])))
    torch.testing.assert_close(spread, alone, rtol=1e-9, atol=1e-9)


class Twice(nn.Module):
    """One layer at two places of one forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = SyncBatchNorm(3), nn.Linear(3, 3)
        nn.init.eye_(self.linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.linear(self.norm(x)).sigmoid())
        return y


def train_shared(rank: int, xs: list[Tensor]) -> dict[str, Any]:
    torch.manual_seed(0)
    model, x = Twice().double(), xs[rank].detach().requires_grad_()
    loss: Any = model(x).pow(3).sum()
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return {"dx": x.grad, "gradients": gradients, "buffers": dict(model.named_buffers())}


def test_a_layer_that_is_used_twice_has_the_gradients_and_statistics_of_the_whole_batch(workers: Any) -> None:
    x = torch.randn(9, 3, dtype=torch.float64)
    (alone,) = workers.run(1, train_shared, [x])
    results = workers.run(3, train_shared, shares(x, [5, 0, 4]))
    torch.testing.assert_close(torch.cat([r["dx"] for r in results]), alone["dx"], rtol=1e-9, atol=1e-11)
    for name, gradient in alone["gradients"].items():
        torch.testing.assert_close(sum(r["gradients"][name] for r in results), gradient, rtol=1e-9, atol=1e-11)
    for result in results:
        torch.testing.assert_close(result["buffers"], alone["buffers"])
        assert int(result["buffers"]["norm.num_batches_tracked"]) == 2

"""SyncBatchNorm: N workers with shares of any size get what nn.BatchNorm gets for the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from batchyard.nn import SyncBatchNorm

KINDS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def shares(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    return list(torch.split(x, list(sizes)))


def train_share(
    rank: int, xs: list[Tensor], dys: list[Tensor], state: dict[str, Tensor], options: dict[str, Any]
) -> dict[str, Any]:
    bn = SyncBatchNorm(xs[0].shape[1], **options)
    bn.load_state_dict(state)
    bn = bn.to(torch.float64 if xs[0].dtype == torch.float64 else torch.float32)
    x = xs[rank].clone().requires_grad_()
    y = bn(x)
    y.backward(dys[rank])
    grads = {name: p.grad for name, p in bn.named_parameters()}
    return {"y": y.detach(), "dx": x.grad, "state": bn.state_dict(), "grads": grads, "strides": y.stride()}


def reference(x: Tensor, dy: Tensor, state: dict[str, Tensor], options: dict[str, Any]) -> tuple[Any, Tensor, Tensor]:
    bn: Any = KINDS[x.dim()](x.shape[1], **options)
    bn.load_state_dict(state)
    bn = bn.double()
    x = x.double().requires_grad_()
    y = bn(x)
    y.backward(dy.double())
    assert x.grad is not None
    return bn, y.detach(), x.grad


def some_state(channels: int, options: dict[str, Any]) -> dict[str, Tensor]:
    bn = nn.BatchNorm1d(channels, **options)
    for name, value in bn.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.randn(channels) if name != "running_var" else torch.rand(channels) + 0.5)
    return bn.state_dict()


@pytest.mark.parametrize("sizes", [(5, 3), (8, 0), (1, 7, 4), (1, 1, 1, 0), (2, 9, 0, 3)])
@pytest.mark.parametrize(("dtype", "y_error", "dx_error"), [(torch.float64, 1e-12, 1e-12), (torch.float32, 1e-5, 1e-5)])
def test_uneven_shares_give_what_one_process_gives(
    workers: Any, sizes: tuple[int, ...], dtype: torch.dtype, y_error: float, dx_error: float
) -> None:
    x, dy = torch.randn(2, sum(sizes), 6, 3, 2, dtype=dtype)
    state = some_state(6, {})
    results = workers.run(len(sizes), train_share, shares(x, sizes), shares(dy, sizes), state, {})
    bn, y, dx = reference(x, dy, state, {})
    torch.testing.assert_close(torch.cat([r["y"] for r in results]).double(), y, rtol=y_error, atol=y_error)
    torch.testing.assert_close(torch.cat([r["dx"] for r in results]).double(), dx, rtol=dx_error, atol=dx_error)
    for name in ("weight", "bias"):
        total = sum(r["grads"][name].double() for r in results)
        torch.testing.assert_close(total, getattr(bn, name).grad, rtol=10 * dx_error, atol=10 * dx_error)
    for name, value in bn.state_dict().items():
        assert all(torch.equal(r["state"][name], results[0]["state"][name]) for r in results), f"{name} differs"
        torch.testing.assert_close(results[0]["state"][name].double(), value.double(), rtol=1e-6, atol=1e-6)

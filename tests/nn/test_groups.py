"""Who shares a batch: all workers by one small message each, some of them, or nobody beyond a ghost batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from batchyard.nn import SyncBatchNorm, convert_sync_batchnorm


def shares(x: Tensor, sizes: list[int]) -> list[Tensor]:
    return [part.clone() for part in torch.split(x, sizes)]


@contextmanager
def recorded_messages() -> Iterator[list[int]]:
    """Bytes that this worker gives to each other one, collective by collective; all are made."""
    sent: list[int] = []
    to_all, reduce = dist.all_to_all_single, dist.all_reduce

    def recording(output: Tensor, input: Tensor, *rest: Any, **options: Any) -> Any:  # noqa: A002
        sent.append(input[0].nbytes)
        return to_all(output, input, *rest, **options)

    def reducing(value: Tensor, *rest: Any, **options: Any) -> Any:
        sent.append(value.nbytes)
        return reduce(value, *rest, **options)

    dist.all_to_all_single, dist.all_reduce = recording, reducing  # type: ignore[assignment]
    try:
        yield sent
    finally:
        dist.all_to_all_single, dist.all_reduce = to_all, reduce


def messages_of_a_step(rank: int, channels: int) -> list[int]:
    bn, x = SyncBatchNorm(channels), torch.randn(4, channels, 3, 3, requires_grad=True)
    with recorded_messages() as sent:
        y: Any = bn(x)
        y.sum().backward()
    return sent


@pytest.mark.parametrize("workers_count", [2, 3, 4])
@pytest.mark.parametrize("channels", [1, 64, 5000])
def test_a_step_sends_one_message_each_way_whose_size_depends_on_the_channels_alone(
    workers: Any, workers_count: int, channels: int
) -> None:
    expected = [8 * (2 * channels + 1), 8 * 2 * channels]
    assert workers.run(workers_count, messages_of_a_step, channels) == [expected] * workers_count


def normalised(rank: int, xs: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    bn, x = SyncBatchNorm(xs[0].shape[1]).double(), xs[rank].detach().requires_grad_()
    y: Any = bn(x)
    y.pow(3).sum().backward()
    assert x.grad is not None
    assert bn.running_var is not None
    return y.detach(), x.grad, bn.running_var


def test_messages_too_large_to_send_to_everyone_add_up_to_the_same(workers: Any) -> None:
    x = torch.randn(9, 5000, dtype=torch.float64)
    ys, dxs, variances = zip(*workers.run(4, normalised, shares(x, [2, 6, 0, 1])), strict=True)
    whole, bn = x.clone().requires_grad_(), nn.BatchNorm1d(5000).double()
    expected = bn(whole)
    expected.pow(3).sum().backward()
    torch.testing.assert_close(torch.cat(ys), expected.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.cat(dxs), whole.grad, rtol=1e-8, atol=1e-8)
    assert all(torch.equal(var, variances[0]) for var in variances)


def in_sub_groups(rank: int, xs: list[Tensor], size: int) -> Tensor:
    model = convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(3)), sync_group_size=size)
    y: Tensor = model(xs[rank]).detach()
    return y


def test_workers_may_normalise_in_sub_groups(workers: Any) -> None:
    x = torch.randn(10, 3, 2, 2)
    parts = shares(x, [1, 4, 3, 2])
    ys = torch.cat(workers.run(4, in_sub_groups, parts, 2))
    expected = torch.cat([nn.BatchNorm2d(3)(x[:5]), nn.BatchNorm2d(3)(x[5:])])
    torch.testing.assert_close(ys, expected, rtol=1e-5, atol=1e-5)
    alone = torch.cat(workers.run(2, in_sub_groups, shares(x, [4, 6]), 1))
    torch.testing.assert_close(alone, torch.cat([nn.BatchNorm2d(3)(p) for p in (x[:4], x[4:])]), rtol=1e-5, atol=1e-5)


def in_ghost_batches(rank: int, xs: list[Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    bn, x = SyncBatchNorm(3, momentum=1.0, ghost_size=4), xs[rank].detach().requires_grad_()
    y = bn(x)
    y.pow(3).sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad, bn.state_dict()


def test_ghost_batches_are_normalised_one_by_one_and_share_running_statistics(workers: Any) -> None:
    x = torch.randn(20, 3, 2)
    results = workers.run(3, in_ghost_batches, shares(x, [8, 12, 0]))
    whole = x.clone().requires_grad_()
    ghosts = torch.split(whole, 4)
    expected: Any = torch.cat([nn.BatchNorm1d(3)(g) for g in ghosts])
    expected.pow(3).sum().backward()
    torch.testing.assert_close(torch.cat([y for y, _, _ in results]), expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([dx for _, dx, _ in results]), whole.grad, rtol=1e-4, atol=1e-4)
    var = torch.stack([g.detach().transpose(0, 1).flatten(1).var(1) for g in ghosts]).mean(0)
    for _, _, state in results:
        torch.testing.assert_close(state["running_var"], var, rtol=1e-5, atol=1e-6)
        assert torch.equal(state["running_var"], results[0][2]["running_var"])

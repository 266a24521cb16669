"""The library on a CUDA device: the same results as on the CPU, without host syncs, compiled and in CUDA graphs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from batchyard.nn import ActivationStats, SyncBatchNorm, certify, fold
from batchyard.nn.synced import Branch, synced_batch_norms

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ERRORS = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 4e-2}


@contextmanager
def without_host_syncs() -> Iterator[None]:
    """An operation that makes the host wait for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def train(layer: Any, x: Tensor) -> list[Tensor]:
    """y, all gradients and the running statistics of a step."""
    leaf = x.detach().requires_grad_()
    y = layer(leaf)
    y.float().pow(3).sum().backward()
    return [y.detach(), leaf.grad, *(p.grad for p in layer.parameters()), layer.running_mean, layer.running_var]


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"ghost_size": 3}], ids=str)
def test_a_step_gives_what_it_gives_on_the_cpu_and_makes_no_host_sync(
    dtype: torch.dtype, memory_format: torch.memory_format, options: dict[str, Any]
) -> None:
    x = (torch.randn(8, 5, 6, 7) + 2).to(dtype).contiguous(memory_format=memory_format)
    on_cpu = SyncBatchNorm(5, **options)
    on_device, given = copy.deepcopy(on_cpu).cuda(), x.cuda()
    expected = train(on_cpu, x)
    with without_host_syncs():
        found = train(on_device, given)
    assert found[0].is_contiguous(memory_format=memory_format)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.cpu().double(), b.double(), rtol=10 * ERRORS[dtype], atol=10 * ERRORS[dtype])


@pytest.mark.parametrize("samples", [0, 8])
@pytest.mark.parametrize("dtype", [torch.float64, *ERRORS])
def test_a_workers_share_gives_what_it_gives_on_the_cpu_and_makes_no_host_sync(
    samples: int, dtype: torch.dtype
) -> None:
    weight, bias, share = torch.randn(5), torch.randn(5), (torch.randn(samples, 5, 6, 7) + 30).to(dtype)

    def step(device: str) -> list[Tensor]:
        x, gamma, beta = (t.detach().to(device).requires_grad_() for t in (share, weight, bias))
        ((y, moments),) = synced_batch_norms([Branch(x, gamma, beta, 1e-3)], None)
        y.float().pow(3).sum().backward()  # type: ignore[no-untyped-call]
        return [y.detach(), *(leaf.grad for leaf in (x, gamma, beta) if leaf.grad is not None), *moments]

    expected = step("cpu")
    with without_host_syncs():
        found = step("cuda")
    error = ERRORS.get(dtype, 1e-6)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.cpu().double(), b.double(), rtol=10 * error, atol=10 * error, equal_nan=True)


def test_a_training_step_is_captured_in_a_cuda_graph_running_statistics_and_all() -> None:
    eager, x = SyncBatchNorm(5).cuda(), torch.randn(8, 5, 6, 7, device="cuda")
    captured, given = copy.deepcopy(eager), x.clone().requires_grad_()
    step: Any = torch.cuda.make_graphed_callables(captured, (given,))
    for module in (eager, captured):  # warming up has moved the statistics
        module.reset_running_stats()
    for number in range(3):
        y, expected = step((x + number).requires_grad_()), eager(x + number)
        torch.testing.assert_close(y, expected)
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(captured.state_dict()[name], value)
    assert int(captured.num_batches_tracked) == 3  # type: ignore[arg-type]


def test_a_poisoned_batch_is_counted_and_left_out() -> None:
    bn: Any = SyncBatchNorm(3).cuda()
    bn(torch.full((4, 3), torch.nan, device="cuda"))
    assert (int(bn.skipped_batches), int(bn.num_batches_tracked)) == (1, 0)
    assert torch.equal(bn.running_var.cpu(), torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_compiles_without_a_break(dtype: torch.dtype) -> None:
    torch.compiler.reset()
    layer: Any = SyncBatchNorm(5).cuda()
    x = torch.randn(8, 5, 6, 7, device="cuda").to(dtype)
    compiled: Any = torch.compile(copy.deepcopy(layer), fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))


def test_measuring_activations_makes_no_host_sync_until_they_are_read() -> None:
    model = nn.Sequential(nn.Linear(4, 50), SyncBatchNorm(50), nn.Sigmoid()).cuda()
    stats, x = ActivationStats(model), torch.randn(200, 4, device="cuda")
    with without_host_syncs():
        model(x)
        stats.end_point()
    ((layer,),) = stats.collect_points()
    z = model[:2](x).detach()
    assert abs(layer.p50 - z.median().item()) < 0.06 * z.std().item()


def test_a_network_on_the_device_folds_and_stays_there() -> None:
    model: Any = nn.Sequential(nn.Conv2d(3, 4, 3), SyncBatchNorm(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).cuda()
    x = torch.randn(8, 3, 6, 6, device="cuda")
    model(x)
    folded = fold(model.eval(), (x,))
    assert {t.device.type for t in folded.module.state_dict().values()} == {"cuda"}
    assert certify(folded, model, (x,)).passed

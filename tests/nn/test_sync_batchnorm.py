"""SyncBatchNorm: N workers with shares of any size get what nn.BatchNorm gets for the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from batchyard.nn import SyncBatchNorm, convert_sync_batchnorm, sync_group

KINDS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def shares(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    return [part.contiguous(memory_format=torch.preserve_format) for part in torch.split(x, list(sizes))]


def train_share(
    rank: int, xs: list[Tensor], dys: list[Tensor], state: dict[str, Tensor], options: dict[str, Any]
) -> dict[str, Any]:
    bn = SyncBatchNorm(xs[0].shape[1], **options)
    bn.load_state_dict(state)
    bn = bn.to(torch.float64 if xs[0].dtype == torch.float64 else torch.float32)
    x = xs[rank].detach().requires_grad_()
    y = bn(x)
    y.backward(dys[rank])
    assert x.grad is not None
    grads = {name: p.grad for name, p in bn.named_parameters()}
    return {"y": y.detach(), "dx": x.grad, "state": bn.state_dict(), "grads": grads}


def reference(x: Tensor, dy: Tensor, state: dict[str, Tensor], options: dict[str, Any]) -> tuple[Any, Tensor, Tensor]:
    bn: Any = KINDS[x.dim()](x.shape[1], **options)
    bn.load_state_dict(state)
    bn = bn.double()
    x = x.double().contiguous().requires_grad_()
    y = bn(x)
    y.backward(dy.double())
    assert x.grad is not None
    return bn, y.detach(), x.grad


def some_state(channels: int, options: dict[str, Any]) -> dict[str, Tensor]:
    bn = nn.BatchNorm1d(channels, **options)
    for name, value in bn.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.randn(channels) if name != "running_var" else torch.rand(channels) + 0.5)
    state: dict[str, Tensor] = bn.state_dict()
    return state


def check_shares(
    workers: Any, xs: list[Tensor], dys: list[Tensor], options: dict[str, Any], y_error: float, dx_error: float
) -> None:
    """Trains one step on every share, and compares everything with one process on the whole batch in fp64."""
    state = some_state(xs[0].shape[1], options)
    results = workers.run(len(xs), train_share, xs, dys, state, options)
    bn, y, dx = reference(torch.cat(xs), torch.cat(dys), state, options)
    torch.testing.assert_close(torch.cat([r["y"] for r in results]).double(), y, rtol=y_error, atol=y_error)
    # With few samples all but nothing is left of dx: the error is in units of its terms, gamma / s * dy.
    x, gamma = torch.cat(xs).double(), next(bn.parameters(), torch.ones(())).detach()
    var = x.var([d for d in range(x.dim()) if d != 1], correction=0)
    largest = float((gamma.abs() * (var + bn.eps).rsqrt()).max() * max(dy.abs().max() for dy in dys if dy.numel()))
    torch.testing.assert_close(torch.cat([r["dx"] for r in results]).double(), dx, rtol=0, atol=dx_error * largest)
    for name, parameter in bn.named_parameters():
        total = sum(r["grads"][name].double() for r in results)
        torch.testing.assert_close(total, parameter.grad, rtol=10 * dx_error, atol=10 * dx_error)
    exact = 1e-12 if xs[0].dtype == torch.float64 else 1e-6
    for name, value in bn.state_dict().items():
        assert all(torch.equal(r["state"][name], results[0]["state"][name]) for r in results), f"{name} differs"
        torch.testing.assert_close(results[0]["state"][name].double(), value.double(), rtol=exact, atol=exact)


@pytest.mark.parametrize("sizes", [(5, 3), (8, 0), (1, 7, 4), (1, 1, 1, 0), (2, 9, 0, 3)])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_uneven_shares_give_what_one_process_gives(
    workers: Any, sizes: tuple[int, ...], dtype: torch.dtype, error: float
) -> None:
    x, dy = torch.randn(2, sum(sizes), 6, 3, 2, dtype=dtype)
    check_shares(workers, shares(x, sizes), shares(dy, sizes), {}, error, error)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "every second": lambda x: torch.cat([x, x], dim=-1)[..., ::2],
    "one channel for all": lambda x: x[:, :1].expand(x.shape),
}
ERRORS = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 4e-2}


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, 6), min_size=2, max_size=4).filter(lambda s: sum(s) > 1),
    channels=st.integers(1, 9),
    spatial=st.lists(st.integers(1, 5), max_size=3),
    dtype=st.sampled_from(list(ERRORS)),
    layout=st.sampled_from(list(LAYOUTS)),
    affine=st.booleans(),
    track=st.booleans(),
    momentum=st.sampled_from([0.1, 1.0, None]),
    location=st.sampled_from([0.0, 3.0, -20.0]),
)
def test_any_shape_dtype_layout_and_shares(
    workers: Any,
    sizes: list[int],
    channels: int,
    spatial: list[int],
    dtype: torch.dtype,
    layout: str,
    affine: bool,
    track: bool,
    momentum: float | None,
    location: float,
) -> None:
    generator = torch.Generator().manual_seed(sum(sizes) * 100 + channels)
    x = torch.randn(sum(sizes), channels, *spatial, generator=generator, dtype=torch.float64)
    dy = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(dtype)
    # Far from zero the nearest values of fp16 and bf16 are far apart: what is compared starts from the rounded input.
    x = LAYOUTS[layout]((x + location).to(dtype))
    xs = list(torch.split(x, sizes))  # views, which reach the workers as views
    options = {"affine": affine, "track_running_stats": track, "momentum": momentum, "eps": 1e-3}
    check_shares(workers, xs, list(torch.split(dy, sizes)), options, ERRORS[dtype], ERRORS[dtype])


def strides(rank: int, xs: list[Tensor]) -> list[tuple[int, ...]]:
    x = xs[rank].requires_grad_()
    y: Any = SyncBatchNorm(3)(x)
    y.sum().backward()
    assert x.grad is not None
    return [y.stride(), x.grad.stride()]


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "transposed"])
def test_results_keep_the_layout_of_the_input(workers: Any, layout: str) -> None:
    x = LAYOUTS[layout](torch.randn(4, 3, 2, 5))
    assert workers.run(2, strides, [x, x]) == [[x.stride()] * 2] * 2


@pytest.mark.parametrize("ratio", [0, 100, 1000])
def test_a_large_mean_costs_no_precision(workers: Any, ratio: float) -> None:
    x, dy = torch.randn(2, 4000, 3)
    check_shares(workers, shares(x + ratio, [10, 3000, 0, 990]), shares(dy, [10, 3000, 0, 990]), {}, 1e-5, 1e-4)


def variance_of(rank: int, sizes: list[int]) -> float:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sum(sizes), 4, 32, 32, generator=generator).contiguous(memory_format=torch.channels_last)
    bn = SyncBatchNorm(4, momentum=1.0)
    bn(x.split(sizes)[rank])  # type: ignore[no-untyped-call]
    exact = x.double().var((0, 2, 3))
    assert bn.running_var is not None
    return float(((bn.running_var.double() - exact) / exact).abs().max())


def test_many_samples_cost_no_precision(workers: Any) -> None:
    # Where torch's own kernel is off by 1e-4.
    assert max(workers.run(2, variance_of, [150, 50])) < 1e-6


def test_tiny_deviations_cost_no_precision(workers: Any) -> None:
    x, dy = torch.randn(2, 4000, 3)
    check_shares(workers, shares(x * 1e-4, [1000, 3000]), shares(dy, [1000, 3000]), {"eps": 1e-12}, 1e-5, 1e-5)


def one_process(bn: nn.Module, x: Tensor) -> Any:
    return bn(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_single_process_is_nn_batchnorm(dtype: torch.dtype, momentum: float | None) -> None:
    ours, theirs = SyncBatchNorm(5, momentum=momentum), nn.BatchNorm2d(5, momentum=momentum)
    for _ in range(4):
        x = torch.randn(6, 5, 3, 2).to(dtype)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, z = one_process(ours, a), one_process(theirs, b)
        torch.testing.assert_close(y, z, rtol=0, atol=1e-6)
        y.square().sum().backward()
        z.square().sum().backward()
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_its_state_goes_to_and_comes_from_nn_batchnorm() -> None:
    state = some_state(4, {})
    ours, theirs = SyncBatchNorm(4), nn.BatchNorm2d(4)
    ours.load_state_dict(state)
    theirs.load_state_dict(ours.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict()) == list(state)
    assert all(torch.equal(theirs.state_dict()[k], v) for k, v in state.items())


def test_a_layer_with_gamma_and_without_beta_trains_as_torchs(workers: Any) -> None:
    whole, x = nn.BatchNorm2d(3), torch.randn(5, 3, 2, 2)  # torch 2.13: nn.BatchNorm2d(3, bias=False)
    whole.register_parameter("bias", None)
    nn.init.uniform_(whole.weight)
    ys = torch.cat(workers.run(2, converted_share, whole, shares(x, [2, 3])))
    torch.testing.assert_close(ys, whole(x).detach())


def converted_share(rank: int, bn: nn.Module, xs: list[Tensor]) -> Tensor:
    layer = convert_sync_batchnorm(bn)
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    y: Tensor = layer(xs[rank]).detach()
    return y


def evaluate_alone(rank: int) -> bool:
    bn = SyncBatchNorm(3).eval()
    return rank == 1 or bool(torch.isfinite(bn(torch.randn(2, 3))).all())  # rank 1 takes no part


def test_evaluation_needs_no_other_worker(workers: Any) -> None:
    assert workers.run(2, evaluate_alone) == [True, True]


def test_bad_settings_and_inputs_are_refused_with_what_was_given() -> None:
    with pytest.raises(ValueError, match=r"shape \[4, 3\].*expected \(N, 5\)"):
        SyncBatchNorm(5)(torch.randn(4, 3))
    with pytest.raises(ValueError, match="num_features is 0"):
        SyncBatchNorm(0)
    with pytest.raises(ValueError, match="eps is -1"):
        SyncBatchNorm(3, eps=-1)
    with pytest.raises(ValueError, match="ghost_size is 0"):
        SyncBatchNorm(3, ghost_size=0)
    with pytest.raises(ValueError, match="does not divide 1 workers"):
        sync_group(2)
    with pytest.raises(ValueError, match="a sync group of 3"):
        convert_sync_batchnorm(nn.BatchNorm1d(3), sync_group_size=3)

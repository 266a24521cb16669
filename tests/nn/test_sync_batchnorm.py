"""SyncBatchNorm: N workers with shares of any size get what nn.BatchNorm gets for the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
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
    xs = [part.clone(memory_format=torch.preserve_format) for part in torch.split(x, sizes)]
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


def evaluate_alone(rank: int) -> bool:
    bn = SyncBatchNorm(3).eval()
    return rank == 1 or bool(torch.isfinite(bn(torch.randn(2, 3))).all())  # rank 1 takes no part


def test_evaluation_needs_no_other_worker(workers: Any) -> None:
    assert workers.run(2, evaluate_alone) == [True, True]


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


def in_ghost_batches(rank: int, xs: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    bn = SyncBatchNorm(3, momentum=1.0, ghost_size=4)
    return bn(xs[rank]).detach(), bn.state_dict()


def test_ghost_batches_are_normalised_one_by_one_and_share_running_statistics(workers: Any) -> None:
    x = torch.randn(20, 3, 2)
    results = workers.run(3, in_ghost_batches, shares(x, [8, 12, 0]))
    ghosts = x.split(4)  # type: ignore[no-untyped-call]
    expected = torch.cat([nn.BatchNorm1d(3)(g) for g in ghosts])
    torch.testing.assert_close(torch.cat([y for y, _ in results]), expected, rtol=1e-5, atol=1e-5)
    var = torch.stack([g.transpose(0, 1).flatten(1).var(1) for g in ghosts]).mean(0)
    for _, state in results:
        torch.testing.assert_close(state["running_var"], var, rtol=1e-5, atol=1e-6)
        assert torch.equal(state["running_var"], results[0][1]["running_var"])


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

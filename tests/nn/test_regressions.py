"""What users of other implementations ran into, by issue number (pytorch/pytorch where no repository is named)."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from batchyard.nn import SyncBatchNorm, certify, convert_sync_batchnorm, fold


def first_step(rank: int, xs: list[Tensor]) -> dict[str, Any]:
    bn = SyncBatchNorm(3)
    x = xs[rank].detach().requires_grad_()
    y: Any = bn(x)
    y.square().sum().backward()
    return {"y": y.detach(), "dx": x.grad, "var": bn.running_var, "tracked": bn.num_batches_tracked}


def whole_batch(x: Tensor) -> tuple[Any, Tensor, Any]:
    bn: Any = nn.BatchNorm2d(3) if x.dim() == 4 else nn.BatchNorm1d(3)
    whole = x.detach().clone().requires_grad_()
    y = bn(whole)
    y.square().sum().backward()
    return bn, y.detach(), whole.grad


def test_issue_22192_and_36382_uneven_batches_count_by_their_samples(workers: Any) -> None:
    x = torch.randn(13, 3, 4, 4) * torch.arange(1.0, 14).view(-1, 1, 1, 1)
    results = workers.run(4, first_step, list(torch.split(x, [1, 2, 9, 1])))
    bn, y, dx = whole_batch(x)
    torch.testing.assert_close(torch.cat([r["y"] for r in results]), y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([r["dx"] for r in results]), dx, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(results[0]["var"], bn.running_var)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 1, 0, 2), (1, 0, 3, 2)])
def test_issue_62967_and_64039_permuted_memory_is_read_as_it_is(workers: Any, order: tuple[int, ...]) -> None:
    x = torch.randn(6, 3, 4, 5)
    back = [order.index(d) for d in range(4)]
    laid_out = [part.permute(order).contiguous().permute(back) for part in torch.split(x, [4, 2])]
    results = workers.run(2, first_step, laid_out)
    _, y, dx = whole_batch(x)
    torch.testing.assert_close(torch.cat([r["y"] for r in results]), y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([r["dx"] for r in results]), dx, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_issue_36530_and_78549_a_worker_without_samples_takes_part(workers: Any, dtype: torch.dtype) -> None:
    x = torch.randn(5, 3, 2).to(dtype)
    results = workers.run(3, first_step, [x[:0], x, x[:0]])
    bn, y, _ = whole_batch(x.float())
    torch.testing.assert_close(results[1]["y"].float(), y, rtol=2e-2, atol=2e-2)
    assert [len(r["y"]) for r in results] == [0, 5, 0]
    assert results[0]["dx"].shape == (0, 3, 2)
    for r in results:
        torch.testing.assert_close(r["var"], bn.running_var)


def nobody_has_samples(rank: int) -> tuple[Tensor, int]:
    bn = SyncBatchNorm(3)
    y: Any = bn(torch.zeros(0, 3, requires_grad=True))
    y.sum().backward()
    return torch.cat([bn.running_mean, bn.running_var]), int(bn.num_batches_tracked)  # type: ignore[list-item, arg-type]


def test_a_batch_without_any_sample_leaves_the_statistics_as_they_were(workers: Any) -> None:
    for statistics, tracked in workers.run(2, nobody_has_samples):
        assert torch.equal(statistics, torch.tensor([0.0, 0, 0, 1, 1, 1]))
        assert tracked == 0


def poisoned_steps(bn: Any, x: Tensor) -> list[Tensor]:
    """A good batch, one with NaN, one with infinity, one that overflows; then a good one."""
    seen = []
    for bad in (None, torch.nan, torch.inf, 1e30, None):
        batch = x.clone().requires_grad_()
        poison = torch.zeros_like(x)
        if bad is not None:
            poison[0, 1] = bad
        y: Any = bn(batch + poison)
        y.sum().backward()  # under automatic mixed precision the step is skipped only after backward
        seen.append(bn.running_var.clone())
    return seen


def poisoned_worker(rank: int, xs: list[Tensor]) -> tuple[list[Tensor], int, int]:
    bn = SyncBatchNorm(3)
    seen = poisoned_steps(bn, xs[rank] if rank == 0 else xs[rank].detach())
    assert bn.skipped_batches is not None
    assert bn.num_batches_tracked is not None
    return seen, int(bn.skipped_batches), int(bn.num_batches_tracked)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_issue_88474_and_115500_a_poisoned_batch_does_not_poison_the_statistics(workers: Any, momentum: float) -> None:
    bn = SyncBatchNorm(3, momentum=momentum)
    seen = poisoned_steps(bn, torch.randn(8, 3))
    assert all(torch.equal(s, seen[0]) for s in seen[1:4])
    assert torch.isfinite(seen[4]).all()
    assert (int(bn.skipped_batches), int(bn.num_batches_tracked)) == (3, 2)  # type: ignore[arg-type]
    for seen, skipped, tracked in workers.run(2, poisoned_worker, list(torch.split(torch.randn(8, 3), [5, 3]))):
        assert all(torch.equal(s, seen[0]) for s in seen[1:4])
        assert (skipped, tracked) == (3, 2)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_issue_161302_156680_and_107372_one_process_compiles_without_a_break(momentum: float | None) -> None:
    torch.compiler.reset()
    eager = nn.Sequential(nn.Linear(5, 6), SyncBatchNorm(6, momentum=momentum), nn.ReLU())
    twin = copy.deepcopy(eager)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    for _ in range(3):
        x = torch.randn(9, 5)
        a, b = eager(x), compiled(x)
        torch.testing.assert_close(a, b)
        a.sum().backward()
        b.sum().backward()
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], value, msg=name)


def compiled_worker(rank: int, model: nn.Module, xs: list[Tensor], ready: bool) -> dict[str, Any]:
    model = convert_sync_batchnorm(model)
    step: Any = torch.compile(model, backend="aot_eager") if ready else model
    for number in range(2):
        x = (xs[rank] + number).requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own
            y = step(x)
            y.pow(3).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return {"y": y.detach(), "dx": x.grad, **gradients, **dict(model.named_buffers())}


def test_issue_161302_two_workers_compile_too(workers: Any) -> None:
    x = torch.randn(7, 3)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3), nn.BatchNorm1d(3))
    arguments = model, list(torch.split(x, [5, 2]))
    compiled, eager = (workers.run(2, compiled_worker, *arguments, ready) for ready in (True, False))
    torch.testing.assert_close(compiled, eager)
    assert all(int(result["1.num_batches_tracked"]) == 2 for result in compiled)


def several_steps(rank: int, steps: list[list[Tensor]]) -> dict[str, Tensor]:
    bn = SyncBatchNorm(3, momentum=None)
    for xs in steps:
        bn(xs[rank])
    state: dict[str, Tensor] = bn.state_dict()
    return state


def test_issue_194504_no_momentum_means_the_average_over_all_batches(workers: Any) -> None:
    batches = [torch.randn(6, 3, 2) + i for i in range(4)]
    bn = nn.BatchNorm1d(3, momentum=None)
    for x in batches:
        bn(x)
    for state in workers.run(2, several_steps, [list(torch.split(x, [4, 2])) for x in batches]):
        for name, value in bn.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6)


def two_forwards(rank: int, xs: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(0)
    inner = convert_sync_batchnorm(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    model = DistributedDataParallel(inner)
    a, b = (x[rank::2] for x in xs)
    loss: Any = (model(a) * model(b)[: len(a)]).sum()
    loss.backward()
    return [p.grad for p in inner.parameters() if p.grad is not None] + list(inner.buffers())


def test_issue_24397_and_65907_two_forwards_before_one_backward_under_ddp(workers: Any) -> None:
    xs = [torch.randn(8, 3), torch.randn(8, 3)]
    ours = workers.run(2, two_forwards, xs)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    loss: Any = (model(xs[0]) * model(xs[1])).sum() / 2  # DDP takes the mean over workers
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    for mine, theirs in zip(ours[0][:4], gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(*ours, strict=True)), "workers differ"


def test_open_mmlab_mmsegmentation_issue_2147_it_runs_on_the_cpu() -> None:
    model = convert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4)))
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 4, 6, 6)
    assert model.eval()(torch.randn(1, 3, 8, 8)).shape == (1, 4, 6, 6)


def narrow_step(rank: int, x: Tensor) -> float:
    bn = SyncBatchNorm(1, momentum=1.0).bfloat16()
    bn(x)
    assert bn.running_var is not None
    return float(bn.running_var)


def test_a_bf16_layer_counts_more_samples_than_bf16_can(workers: Any) -> None:
    x = torch.randn(700, 1).bfloat16() + 3  # whole numbers above 256 are not all bf16's
    exact = float(torch.cat([x, x]).double().var())
    assert workers.run(2, narrow_step, x) == [pytest.approx(exact, rel=0.005)] * 2


def with_statistics(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval()


def folded_equals(model: Any, x: Tensor) -> list[str]:
    folded = fold(model, (x,))
    certificate = certify(folded, model, (x,))
    assert certificate.passed, certificate.reasons
    return [entry.status for entry in folded.report]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_issue_180995_and_ultralytics_25364_grouped_transposed_convolutions_fold(groups: int) -> None:
    layer = nn.ConvTranspose2d(8, 12, 4, stride=2, padding=1, groups=groups)
    model = with_statistics(nn.Sequential(layer, nn.BatchNorm2d(12), nn.SiLU()))
    assert folded_equals(model, torch.randn(2, 8, 5, 5)) == ["folded"]


class ConvolutionTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.two(self.conv(self.one(self.conv(x)).relu()))
        return y


def test_issue_197539_and_104593_a_convolution_used_twice_is_folded_for_each_call() -> None:
    assert folded_equals(with_statistics(ConvolutionTwice()), torch.randn(2, 3, 6, 6)) == ["folded", "folded"]


class NormTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.two(F.relu(self.norm(self.one(x)))))
        return y


def test_aimet_issue_3506_statistics_that_two_layers_share_are_folded_into_both() -> None:
    assert folded_equals(with_statistics(NormTwice()), torch.randn(2, 3, 6, 6)) == ["folded", "folded"]


def test_a_variance_beyond_fp16_is_folded_before_it_is_cast() -> None:
    model = with_statistics(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)))
    model[0].half()
    with torch.no_grad():
        model[1].running_var.fill_(1e6)
    folded = fold(model, (torch.randn(3, 4).half(),))
    assert folded.module.get_parameter("0.weight").dtype == torch.float16
    assert torch.isfinite(folded.module(torch.randn(3, 4).half())).all()

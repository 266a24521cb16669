"""Sibling layers at equal depth share one collective, and nothing else changes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from batchyard import models
from batchyard.nn import (
    ActivationStats,
    SyncBatchNorm,
    certify,
    convert_sync_batchnorm,
    fold,
    normalize_together,
    population_statistics,
    run_together,
    sync_group,
)


class Block(nn.Module):
    """Three branches of 1, 2 and 3 normalisations, one of them nested, and one that is none; shared or apart."""

    def __init__(self, together: bool = True) -> None:
        super().__init__()
        self.together = together
        stage = [nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
        self.one = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
        self.two = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), *copy.deepcopy(stage))
        deep = [nn.Sequential(*stage), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)]
        self.three = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), *deep)
        self.pool = nn.AvgPool2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.one, self.two, self.three, self.pool]
        return torch.cat(run_together(branches, x) if self.together else [branch(x) for branch in branches], 1)


@contextmanager
def counted_collectives() -> Iterator[list[int]]:
    """How many collectives this worker makes; all are made."""
    names = ("all_reduce", "all_gather", "all_to_all_single")
    made, real = [0], {name: getattr(dist, name) for name in names}

    def counting(name: str) -> Callable[..., Any]:
        def collective(*arguments: Any, **options: Any) -> Any:
            made[0] += 1
            return real[name](*arguments, **options)

        return collective

    for name in real:
        setattr(dist, name, counting(name))
    try:
        yield made
    finally:
        for name, function in real.items():
            setattr(dist, name, function)


def train(model: nn.Module, x: Tensor) -> tuple[dict[str, Any], int, int]:
    """One step: everything it leaves behind, and its collectives in each direction."""
    x = x.clone().requires_grad_()
    with counted_collectives() as forward:
        y: Any = model(x)
    with counted_collectives() as backward:
        y.pow(3).sum().backward()
    gradients = {f"{name}.grad": p.grad for name, p in model.named_parameters()}
    return {"y": y.detach(), "dx": x.grad, **gradients, **dict(model.named_buffers())}, forward[0], backward[0]


def train_both(rank: int, xs: list[Tensor], state: dict[str, Tensor]) -> tuple[Any, Any]:
    blocks = [convert_sync_batchnorm(Block(together)) for together in (True, False)]
    for block in blocks:
        block.load_state_dict(state)
        block.to(xs[0].dtype)
    together, apart = (train(block, xs[rank]) for block in blocks)
    return together, apart


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(3, 3), (5, 0), (1, 7, 2), (4, 0, 1)])
def test_every_value_is_that_of_separate_layers(workers: Any, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    block, x = Block(), torch.randn(sum(sizes), 3, 5, 5, dtype=dtype) + 2
    results = workers.run(len(sizes), train_both, list(torch.split(x, list(sizes))), block.state_dict())
    for (together, forward, backward), (apart, *others) in results:
        assert (forward, backward, others) == (3, 3, [6, 6])
        assert together.keys() == apart.keys()
        assert not [name for name, value in apart.items() if not torch.equal(together[name], value)]
    whole, _, _ = train(block.to(dtype), x)
    torch.testing.assert_close(torch.cat([r[0][0]["y"] for r in results]), whole["y"], rtol=1e-4, atol=1e-5)


def collectives_of_inception(rank: int) -> tuple[int, int, int]:
    model = models.build("inception_bn", models.Plan(image_shape=(3, 16, 16), classes=4, width=0.1), seed=0)
    _, forward, backward = train(model, torch.randn(2, 3, 16, 16))
    return sum(isinstance(layer, SyncBatchNorm) for layer in model.modules()), forward, backward


def test_bn_inception_makes_33_collectives_for_its_69_layers(workers: Any) -> None:
    assert workers.run(2, collectives_of_inception) == [(69, 33, 33)] * 2


def evaluate_alone(rank: int, x: Tensor, state: dict[str, Tensor]) -> Tensor | None:
    block = convert_sync_batchnorm(Block()).eval()
    block.load_state_dict(state)
    return block(x).detach() if rank == 0 else None  # rank 1 takes no part


def test_evaluation_makes_no_collective(workers: Any) -> None:
    block, x = Block(together=False), torch.randn(2, 3, 5, 5)
    y, _ = workers.run(2, evaluate_alone, x, block.state_dict())
    torch.testing.assert_close(y, block.eval()(x))


def fold_and_certify(rank: int, x: Tensor, state: dict[str, Tensor]) -> tuple[list[str], bool, str]:
    block = convert_sync_batchnorm(Block())
    block.load_state_dict(state)
    folded = fold(block, (x,))
    certificate = certify(folded, block, (x,))
    return [entry.status for entry in folded.report], certificate.passed, certificate.digest


def test_a_network_that_shares_folds_the_same_on_one_worker_and_on_two(workers: Any) -> None:
    arguments = torch.randn(2, 3, 5, 5), Block().state_dict()
    alone = fold_and_certify(0, *arguments)
    assert alone[:2] == (["folded"] * 6, True)
    assert workers.run(2, fold_and_certify, *arguments) == [alone, alone]


def watched(rank: int, xs: list[Tensor], state: dict[str, Tensor]) -> tuple[Any, Any]:
    found = []
    for together in (True, False):
        block: Any = convert_sync_batchnorm(Block(together))
        block.load_state_dict(state)
        statistics = ActivationStats(block)
        population_statistics(block, xs[rank::2])
        found.append((statistics.collect(), list(block.buffers())))
    return found[0], found[1]


def test_hooks_and_population_statistics_see_every_layer(workers: Any) -> None:
    xs = [torch.randn(3, 3, 5, 5) for _ in range(4)]
    for together, apart in workers.run(2, watched, xs, Block().state_dict()):
        assert len(together[0]) == 6
        assert together[0] == apart[0]
        assert all(torch.equal(a, b) for a, b in zip(together[1], apart[1], strict=True))


def mixed(rank: int, x: Tensor) -> tuple[list[Tensor], list[Tensor], int]:
    shared = SyncBatchNorm(3)
    layers = [shared, nn.ReLU(), SyncBatchNorm(3, ghost_size=2), nn.BatchNorm1d(3), shared, SyncBatchNorm(3).eval()]
    layers += [SyncBatchNorm(3, process_group=sync_group(1)), SyncBatchNorm(3, affine=False, track_running_stats=False)]
    apart = [layer(x + i) for i, layer in enumerate(copy.deepcopy(nn.ModuleList(layers)))]
    with counted_collectives() as made:
        together = normalize_together(layers, [x + i for i in range(len(layers))])
    return together, apart, made[0]


def test_what_cannot_share_is_just_called(workers: Any) -> None:
    for together, apart, made in workers.run(2, mixed, torch.randn(4, 3)):
        assert made == 2  # one for the three that share, one for the ghost batches
        assert all(torch.equal(a, b) for a, b in zip(together, apart, strict=True))


def an_unused_branch(rank: int, x: Tensor) -> Tensor | None:
    a, _ = normalize_together([SyncBatchNorm(3), SyncBatchNorm(3)], [x.requires_grad_(), torch.randn(2, 3)])
    a.pow(3).sum().backward()  # type: ignore[no-untyped-call]
    return x.grad


def test_a_branch_that_no_loss_needs_does_not_matter(workers: Any) -> None:
    x = torch.randn(4, 3)
    first, second = workers.run(2, an_unused_branch, x)
    whole = torch.cat([x, x]).requires_grad_()
    nn.BatchNorm1d(3)(whole).pow(3).sum().backward()
    torch.testing.assert_close(torch.cat([first, second]), whole.grad, rtol=1e-4, atol=1e-5)


def test_a_network_that_shares_compiles_without_a_break_in_one_process() -> None:
    torch.compiler.reset()
    block = convert_sync_batchnorm(Block())
    compiled = torch.compile(copy.deepcopy(block), backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(compiled(x), block(x))


class Pair(nn.Sequential):
    """Two branches of one normalisation each."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(run_together(self, x), 1)


def train_compiled(rank: int, xs: list[Tensor]) -> tuple[Any, Any]:
    torch.manual_seed(0)
    eager = Pair(*[nn.Sequential(nn.Linear(3, 2), SyncBatchNorm(2)) for _ in range(2)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        twin = copy.deepcopy(eager)
        compiled, _, _ = train(cast(nn.Module, torch.compile(twin, backend="aot_eager")), xs[rank])
    return {name.removeprefix("_orig_mod."): value for name, value in compiled.items()}, train(eager, xs[rank])[0]


def test_a_network_that_shares_is_itself_when_compiled_for_two_workers(workers: Any) -> None:
    for compiled, eager in workers.run(2, train_compiled, list(torch.split(torch.randn(5, 3), [3, 2]))):
        torch.testing.assert_close(compiled, eager)


def test_a_wrong_number_of_inputs_is_refused() -> None:
    with pytest.raises(ValueError, match="got 2 layers and 1 inputs"):
        normalize_together([nn.ReLU(), nn.ReLU()], [torch.zeros(1, 2)])

"""Population statistics: what replaces a batch's mean and variance at inference (Algorithm 2 of the paper)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchyard.nn.collectives import world_size
from batchyard.nn.moments import pack, unpack

METHODS = ("alg2", "population", "cumulative", "ema")


@torch.no_grad()
def population_statistics(
    model: nn.Module,
    batches: Iterable[Tensor | tuple[Any, ...] | list[Any]],
    method: str = "alg2",
    process_group: dist.ProcessGroup | None = None,
) -> None:
    """Sets the running statistics of every BN in `model` from training batches, with frozen weights.

    Everything but the BN layers is in evaluation mode meanwhile; afterwards every module is in the mode it was in. On
    several workers every worker of `process_group` (None: all) must call it, with the same number of batches; all end
    with the same bytes.

    Args:
        model: any network with nn.BatchNorm or SyncBatchNorm layers that track running statistics.
        batches: inputs for the model, or tuples whose first element is the input (labels are ignored).
        method: alg2: means over the batches of batch mean and of m / (m - 1) * batch variance, literally Algorithm 2.
            population: mean and unbiased variance of all samples as one batch, at each layer's input; whatever the
            batch sizes. cumulative: as alg2, but averaged in the precision of the buffers, as nn.BatchNorm does with
            momentum=None. ema: the moving averages of training, moved on by these batches with each layer's momentum.
        process_group: the workers to average over.

    Raises ValueError for an unknown method, no batches (ema takes none too), a layer with
    statistics that are not finite.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    layers = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None}
    if not layers:
        return
    records = [_Record(name, layer) for name, layer in layers.items()]
    with _only_batch_norm_in_training(model, records):
        if method == "population":
            count = _run(model, batches, records, _add_moments)
            finish = _of_all_samples
        elif method == "alg2":
            for record in records:
                record.layer.momentum = 1.0  # the running statistics become those of the batch, the variance unbiased
            count = _run(model, batches, records, _add_batch_statistics)
            finish = _mean_of_batches
        else:
            for record in records:
                if method == "cumulative":
                    record.layer.momentum = None
                    record.layer.reset_running_stats()
            count = _run(model, batches, records, _count_calls)
            finish = _mean_of_workers
    if not count and method != "ema":
        raise ValueError(f"no batches were given; {method} needs at least one")
    finish(records, process_group)


@dataclass
class _Record:
    """One BN layer, how it was, and what was gathered for it; `total` grows by one term per call of the layer."""

    name: str
    layer: _BatchNorm
    calls: int = 0
    total: Tensor | None = None
    before: dict[str, Tensor] = field(default_factory=dict)
    momentum: float | None = None

    def __post_init__(self) -> None:
        self.before = {name: buffer.clone() for name, buffer in self.layer.named_buffers()}
        self.momentum = self.layer.momentum

    def add(self, term: Tensor) -> None:
        self.total = term if self.total is None else self.total + term

    def restore(self) -> None:
        """A layer that was never called (an auxiliary head, say) keeps its statistics."""
        for name, value in self.before.items():
            getattr(self.layer, name).copy_(value)

    def write(self, mean: Tensor, var: Tensor) -> None:
        skipped = getattr(self.layer, "skipped_batches", None)
        finite = bool(torch.isfinite(mean).all() and torch.isfinite(var).all())
        if not finite or (skipped is not None and not torch.equal(skipped, self.before["skipped_batches"])):
            raise ValueError(f"statistics of layer {self.name!r} are not finite; look for NaN or infinity in its input")
        self.layer.running_mean.copy_(mean)  # type: ignore[union-attr]
        self.layer.running_var.copy_(var)  # type: ignore[union-attr]
        if self.layer.num_batches_tracked is not None:
            self.layer.num_batches_tracked.copy_(torch.as_tensor(self.calls))


@contextmanager
def _only_batch_norm_in_training(model: nn.Module, records: list[_Record]) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for record in records:
        record.layer.train()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for record in records:
            record.layer.momentum = record.momentum
            if not record.calls:
                record.restore()


def _run(model: nn.Module, batches: Iterable[Any], records: list[_Record], gather: _Gather) -> int:
    """Runs the batches; after each call of a layer, `gather` looks at it. Returns the number of batches."""
    handles = [record.layer.register_forward_hook(_hook(record, gather)) for record in records]
    count = 0
    try:
        for batch in batches:
            model(batch[0] if isinstance(batch, tuple | list) else batch)
            count += 1
    finally:
        for handle in handles:
            handle.remove()
    return count


def _hook(record: _Record, gather: _Gather) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
        gather(record, inputs[0])
        record.calls += 1

    return hook


def _count_calls(record: _Record, x: Tensor) -> None:
    """The layer's own running statistics are all that is needed."""


def _add_batch_statistics(record: _Record, x: Tensor) -> None:
    record.add(_running(record.layer))


def _add_moments(record: _Record, x: Tensor) -> None:
    record.add(pack(x))


def _mean_of_batches(records: list[_Record], group: dist.ProcessGroup | None) -> None:
    """E[x] = mean of batch means, Var[x] = mean of unbiased batch variances, over the batches of all workers."""
    called = [record for record in records if record.total is not None]
    parts = [torch.cat([r.total, r.total.new_tensor([r.calls])]) for r in called if r.total is not None]
    for record, total in zip(called, _summed(parts, group), strict=True):
        record.write(*(total[:-1] / total[-1]).chunk(2))


def _of_all_samples(records: list[_Record], group: dist.ProcessGroup | None) -> None:
    """Mean and unbiased variance of all samples of all workers, as if they were one batch."""
    called = [record for record in records if record.total is not None]
    for record, total in zip(called, _summed([r.total for r in called if r.total is not None], group), strict=True):
        moments = unpack(total)
        record.write(moments.mean, moments.unbiased_var)


def _mean_of_workers(records: list[_Record], group: dist.ProcessGroup | None) -> None:
    """Workers with BN layers of their own saw different batches: the mean of their running statistics."""
    called = [record for record in records if record.calls]
    for record, total in zip(called, _summed([_running(r.layer) for r in called], group), strict=True):
        if record.momentum is not None and record.layer.num_batches_tracked is not None:
            record.calls = int(record.layer.num_batches_tracked)
        record.write(*(total / world_size(group)).chunk(2))


def _running(layer: _BatchNorm) -> Tensor:
    """The layer's running mean and variance, fp64 [2C]."""
    return torch.cat([layer.running_mean, layer.running_var]).double()  # type: ignore[list-item]


def _summed(parts: list[Tensor], group: dist.ProcessGroup | None) -> list[Tensor]:
    """Each part summed over all workers, in one collective for the whole model."""
    if not parts or world_size(group) == 1:
        return parts
    flat = torch.cat([part.to(parts[0].device) for part in parts])
    dist.all_reduce(flat, group=group)
    return list(torch.split(flat, [part.numel() for part in parts]))


_Gather = Callable[[_Record, Tensor], None]

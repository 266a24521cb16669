"""SyncBatchNorm: nn.BatchNorm for inputs of any rank whose batch may be spread over several workers."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from batchyard.nn.collectives import sum_over_workers, world_size
from batchyard.nn.moments import Moments, statistics_dtype
from batchyard.nn.running import move_towards
from batchyard.nn.synced import Branch, synced_batch_norms

_ONE = torch.ones((), dtype=torch.long, device="cpu")
"""A tensor is added in two thirds of the time that a number takes."""
Outcome = tuple[Tensor, Moments]
"""y, and the moments of the batch that made it."""


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation (arXiv 1502.03167, Algorithm 1) with statistics over all workers of a process group.

    N workers with shares of any size, empty ones included, get what one process gets for the concatenated batch. With
    one worker, or without a process group, this is nn.BatchNorm at nn.BatchNorm's speed. Evaluation never communicates.
    The state_dict is that of nn.BatchNorm.

    A batch whose statistics are not finite leaves the running statistics as they were, and `skipped_batches` counts it.

    Args:
        num_features: C, the size of dimension 1.
        eps: added to the variance, above 0.
        momentum: weight of the newest batch in the running statistics; None: the average over all batches.
        affine: learn gamma (weight) and beta (bias).
        track_running_stats: keep running statistics; without them evaluation uses its own batch's, on each worker.
        process_group: the workers that share a batch; None: all.
        ghost_size: normalise by ghost batches (arXiv 1705.08741) of at most this many samples, each within one worker,
            instead of by the whole batch; the running statistics are the means over all ghost batches.

    Shape: (N, C) or (N, C, ...); the output has the shape, dtype and memory format of the input.
    """

    skipped_batches: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: dist.ProcessGroup | None = None,
        *,
        ghost_size: int | None = None,
    ) -> None:
        if ghost_size is not None and ghost_size < 1:
            raise ValueError(f"ghost_size is {ghost_size}; expected samples per ghost batch, 2 or more, or None")
        if num_features < 1:
            raise ValueError(f"num_features is {num_features}; expected the number of channels, 1 or more")
        if not eps > 0:
            raise ValueError(f"eps is {eps}; expected a number above 0, such as 1e-5")
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self.process_group = process_group
        self.ghost_size = ghost_size
        # Not part of the state_dict, which stays that of nn.BatchNorm.
        counter = torch.zeros((), dtype=torch.long) if track_running_stats else None
        self.register_buffer("skipped_batches", counter, persistent=False)

    def forward(self, input: Tensor, outcome: Outcome | None = None) -> Tensor:  # noqa: A002  nn.BatchNorm's name
        """Normalises `input`; raises ValueError for a wrong shape, or for one sample per channel on a lone worker.

        `outcome` is for `normalize_together` alone: what it has found for this input, together with others.
        """
        if outcome is not None:
            return self._taken_in(outcome)
        self._check_shape(input)
        return self._in_training(input) if self.training else self._with_fixed_statistics(input)

    def _in_training(self, x: Tensor) -> Tensor:
        if self.ghost_size is not None:
            return self._in_ghost_batches(x, self._running(), self.ghost_size)
        if world_size(self.process_group) > 1:
            (outcome,) = _normalizing()([self.branch(x)], self.process_group)
            return self._taken_in(outcome)
        if self.track_running_stats and x.is_cpu and self.momentum is not None and not torch.compiler.is_compiling():
            return self._alone_on_cpu(x, self.momentum)
        return self._alone_on_device(x, self._running())

    def _check_shape(self, input: Tensor) -> None:  # noqa: A002
        if input.dim() < 2 or input.shape[1] != self.num_features:
            raise ValueError(
                f"{type(self).__name__} got an input of shape {list(input.shape)}; "
                f"expected (N, {self.num_features}) or (N, {self.num_features}, ...)"
            )

    def branch(self, x: Tensor) -> Branch:
        """What this layer asks of a normalisation over several workers. Raises ValueError for a wrong shape."""
        self._check_shape(x)
        return Branch(x, self._parameters["weight"], self._parameters["bias"], self.eps)

    def _running(self) -> Running | None:
        """What it tracks; None where it tracks nothing."""
        if not self.track_running_stats:
            return None
        buffers = cast("dict[str, Tensor]", self._buffers)
        tracked, skipped = buffers["num_batches_tracked"], buffers["skipped_batches"]
        return Running(buffers["running_mean"], buffers["running_var"], tracked, skipped)

    def _with_fixed_statistics(self, x: Tensor) -> Tensor:
        running = self._running()
        if running is None:
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        mean, var = running[:2]
        return F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)

    def _taken_in(self, outcome: Outcome) -> Tensor:
        y, moments = outcome
        running = self._running()
        if running is not None:
            running.move(moments.mean, moments.unbiased_var, self.momentum)
        return y

    def _alone_on_cpu(self, x: Tensor, momentum: float) -> Tensor:
        """The kernel updates the running statistics itself; what it must not spoil is put back.

        nn.BatchNorm's way to the kernel is longer by two functions, which pays for copy and check: 2 us on a [60, 100].
        """
        # Straight from the dictionaries: nn.Module's attribute access costs as much as a small kernel, every step.
        buffers = cast("dict[str, Tensor]", self._buffers)
        mean, var = buffers["running_mean"], buffers["running_var"]
        if x.numel() == self.num_features:
            raise ValueError(
                f"got an input of shape {list(x.shape)}; expected 2 or more values per channel in training"
            )
        before = torch.cat((mean, var))  # half the time of two copies
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        y = torch.batch_norm(x, weight, bias, mean, var, True, momentum, self.eps, False)
        # A mean that is not finite makes its variance not finite too; and of a NaN and a number the NaN is the largest.
        if var.max().item() < math.inf:
            buffers["num_batches_tracked"].add_(_ONE)
        else:
            # Through .data: backward, which needs neither, must not take this for a change of a value it saved.
            mean.data.copy_(before[: self.num_features])
            var.data.copy_(before[self.num_features :])
            buffers["skipped_batches"].add_(1)
        return y

    def _alone_on_device(self, x: Tensor, running: Running | None) -> Tensor:
        """The kernel writes this batch's statistics into fresh buffers; no value is read by the host."""
        if running is None:
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        dtype = statistics_dtype(x)
        mean, var = torch.zeros(2, self.num_features, dtype=dtype, device=x.device).unbind()
        weight, bias = (None if p is None else p.to(dtype) for p in (self.weight, self.bias))
        y = F.batch_norm(x, mean, var, weight, bias, True, 1.0, self.eps)
        running.move(mean, var, self.momentum)
        return y

    def _in_ghost_batches(self, x: Tensor, running: Running | None, size: int) -> Tensor:
        """Normalises parts of `x` one by one; only the running statistics are shared with other workers."""
        dtype = statistics_dtype(x)
        weight, bias = (None if p is None else p.to(dtype) for p in (self.weight, self.bias))
        parts = x.tensor_split(-(-len(x) // size)) if len(x) else ()
        total = torch.zeros(2 * self.num_features + 1, dtype=torch.float64, device=x.device)
        ys = []
        for part in parts:
            mean, var = torch.zeros(2, self.num_features, dtype=dtype, device=x.device).unbind()
            ys.append(F.batch_norm(part, mean, var, weight, bias, True, 1.0, self.eps))
            total += torch.cat([mean, var, mean.new_ones(1)])
        if running is not None:
            total = sum_over_workers(total, self.process_group)
            mean, var = (total[:-1] / total[-1]).chunk(2)
            running.move(mean, var, self.momentum)
        return torch.cat(ys) if ys else x * 1.0

    def extra_repr(self) -> str:
        """The settings, for print(module)."""
        ghosts = "" if self.ghost_size is None else f", ghost_size={self.ghost_size}"
        return f"{super().extra_repr()}{ghosts}"  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, Any]) -> SyncBatchNorm:
        memo[id(self.process_group)] = self.process_group  # a group is a handle to something shared: never copied
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied


def _normalizing() -> Callable[[Sequence[Branch], dist.ProcessGroup | None], list[Outcome]]:
    """`synced_batch_norms`; in a compiled network one that the graph breaks at."""
    return _uncompiled() if torch.compiler.is_compiling() else synced_batch_norms


@functools.cache
def _uncompiled() -> Callable[..., Any]:
    """The collective for compiled networks, which break at it. As a decorator it would import the compiler: 2 s."""
    return cast("Callable[..., Any]", torch.compiler.disable(synced_batch_norms))  # type: ignore[no-untyped-call]


class Running(NamedTuple):
    """The buffers of a SyncBatchNorm that tracks running statistics."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    skipped_batches: Tensor

    def move(self, mean: Tensor, unbiased_var: Tensor, momentum: float | None) -> None:
        """Towards this batch's statistics."""
        pairs = [(self.running_mean, mean), (self.running_var, unbiased_var)]
        move_towards(pairs, self.num_batches_tracked, self.skipped_batches, momentum)

"""The workers of an attempt as one process group, or a single worker without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from batchyard.training.context import WorkerContext
from batchyard.training.events import TrainingError

TIMEOUT = timedelta(minutes=5)
"""For one collective. A dead peer shows at once, by its closed connection; this is for one that hangs."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """One worker's view of all workers."""

    rank: int
    world_size: int
    device: torch.device

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Adds up `tensor` over all workers, in place, and returns it. Every worker must call it."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def mean_(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean of `tensor` over all workers, in place. Every worker must call it."""
        return self.sum_(tensor).div_(self.world_size)

    def alone(self) -> dist.ProcessGroup | None:
        """A process group of this worker and no other; None where there are no others."""
        return dist.new_group([self.rank], use_local_synchronization=True) if self.world_size > 1 else None


@contextmanager
def joined(context: WorkerContext) -> Iterator[Group]:
    """Joins the other workers (gloo on the CPU, NCCL on CUDA) and leaves them at the end, whatever happens.

    Raises TrainingError when the device is not there.
    """
    group = Group(rank=context.rank, world_size=context.world_size, device=_device(context.device))
    if group.world_size == 1:
        yield group
        return
    if group.device.type == "cpu":
        torch.set_num_threads(1)  # the workers share the cores; more threads than cores only wait for each other
    backend = "nccl" if group.device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=context.connect(), rank=group.rank, world_size=group.world_size, timeout=TIMEOUT
    )
    try:
        yield group
    finally:
        dist.destroy_process_group()


def _device(name: str) -> torch.device:
    if name == "cuda":
        if not torch.cuda.is_available():
            cause = "workers.gpus_per_worker: 1 given; torch finds no CUDA device in this worker"
            raise TrainingError(cause, "set workers.gpus_per_worker to 0, or run on machines with NVIDIA GPUs")
        torch.cuda.set_device(0)
        torch.backends.cudnn.deterministic = True  # the same spec gives the same weights
    return torch.device(name)

"""The workers of an attempt as one process group, or a single worker without one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from batchyard.training.context import WorkerContext
from batchyard.training.events import TrainingError
from batchyard.training.mesh import MESH, Mesh

TIMEOUT = timedelta(minutes=5)
"""For one collective. A dead peer shows at once, by its closed connection; this is for one that hangs."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """One worker's view of all workers."""

    rank: int
    world_size: int
    device: torch.device
    process_group: dist.ProcessGroup | None = None
    """For collectives over all workers; None: torch's default group, or a single worker."""

    @property
    def way(self) -> str:
        """How the workers add up, for people."""
        if isinstance(self.process_group, Mesh) and self.process_group.direct:
            return "shared memory"
        return "NCCL" if self.device.type == "cuda" else "gloo"

    @property
    def collective_seconds(self) -> float:
        """What this worker has spent in collectives, where they are waited for on the host: between CPU workers."""
        return self.process_group.seconds if isinstance(self.process_group, Mesh) else 0.0

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Adds up `tensor` over all workers, in place, and returns it. Every worker must call it."""
        if self.world_size > 1:
            dist.all_reduce(tensor, group=self.process_group)
        return tensor

    def mean_(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean of `tensor` over all workers, in place. Every worker must call it."""
        return self.sum_(tensor).div_(self.world_size)

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Every worker's `tensor`, in order of rank; all have one shape and dtype. Every worker must call it."""
        if self.world_size == 1:
            return [tensor]
        gathered = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(gathered, tensor, group=self.process_group)
        return gathered

    def from_first(self, content: bytes) -> bytes:
        """What rank 0 gives; the others' `content` is ignored. Every worker must call it."""
        if self.world_size == 1:
            return content
        length = torch.tensor(len(content) if self.rank == 0 else 0, device=self.device)
        buffer = torch.empty(int(self.sum_(length)), dtype=torch.uint8)
        if self.rank == 0 and content:
            buffer.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        buffer = buffer.to(self.device)
        if buffer.numel():
            dist.broadcast(buffer, src=0)
        return buffer.cpu().numpy().tobytes()

    def alone(self) -> dist.ProcessGroup | None:
        """A process group of this worker and no other; None where there are no others."""
        return dist.new_group([self.rank], use_local_synchronization=True) if self.world_size > 1 else None


@contextmanager
def joined(context: WorkerContext) -> Iterator[Group]:
    """Joins the other workers (gloo on the CPU, NCCL on CUDA) and leaves them at the end, whatever happens.

    Raises TrainingError when the device is not there.
    """
    device = _device(context.device, deterministic=context.spec.deterministic)
    rank, size = context.rank, context.world_size
    if size == 1:
        yield Group(rank=rank, world_size=size, device=device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=context.connect(), rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        if device.type == "cuda":
            yield Group(rank=rank, world_size=size, device=device)
        else:
            torch.set_num_threads(1)  # the workers share the cores; more threads than cores wait for each other
            with _mesh() as mesh:
                yield Group(rank=rank, world_size=size, device=device, process_group=mesh)
    finally:
        dist.destroy_process_group()


@contextmanager
def _mesh() -> Iterator[Mesh]:
    """Short cuts between workers on the same cores."""
    mesh = dist.new_group(backend=MESH, timeout=TIMEOUT)
    assert isinstance(mesh, Mesh)
    try:
        yield mesh
    finally:
        mesh.close()


def _device(name: str, *, deterministic: bool) -> torch.device:
    if name == "cuda":
        if not torch.cuda.is_available():
            cause = "workers.gpus_per_worker: 1 given; torch finds no CUDA device in this worker"
            raise TrainingError(cause, "set workers.gpus_per_worker to 0, or run on machines with NVIDIA GPUs")
        torch.cuda.set_device(0)
        torch.backends.cudnn.deterministic = True  # the same spec gives the same weights
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before cuBLAS starts, or it has its own way
            torch.use_deterministic_algorithms(True)
    return torch.device(name)

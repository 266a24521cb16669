"""What one worker process of an attempt is given. No torch at import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchyard.training.events import Emit
from batchyard.training.spec import TrainingJobSpec

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """One worker's place in an attempt, and its ways out. Executors build it; batchyard.training.worker runs it."""

    job: str
    """The job's id."""
    attempt: int
    spec: TrainingJobSpec
    rank: int
    world_size: int
    connect: Callable[[], Store]
    """Opens the store where the workers of this attempt meet; called once, and only when world_size > 1."""
    emit: Emit
    """Rank 0 reports progress; every rank may log."""
    stop_requested: Callable[[], bool]
    """Asked between steps; when True the worker raises StoppedError."""
    artifact_uri: str
    """Where rank 0 writes the published model: a folder that does not exist yet, an fsspec URI."""
    data_folders: tuple[str, ...] = ()
    """Where datasets are looked for, in this order."""
    device: str = "cpu"
    """cpu, or cuda for the one GPU that this process sees."""


class StoppedError(Exception):
    """The worker stopped because it was asked to."""

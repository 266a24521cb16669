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
    pause_requested: Callable[[], bool] = lambda: False
    """Asked between steps; when True the workers write a checkpoint and raise PausedError, all at the same step."""
    checkpoint_uri: str = ""
    """The folder of the job's checkpoints, of all attempts, an fsspec URI; empty: none are written."""
    spare_checkpoints: int = 0
    """How many more than the spec keeps the worker leaves, for whoever stores its reports to remove."""
    resume_from: str | None = None
    """The checkpoint in that folder to go on from. Where it is damaged, the newest sound one of an earlier step, or the
    beginning: a Resumed event says which."""
    data_folders: tuple[str, ...] = ()
    """Where datasets are looked for, in this order."""
    device: str = "cpu"
    """cpu, or cuda for the one GPU that this process sees."""


class StoppedError(Exception):
    """The worker stopped because it was asked to."""


class PausedError(Exception):
    """The worker stopped because it was asked to pause, and a later attempt can go on from its checkpoint."""

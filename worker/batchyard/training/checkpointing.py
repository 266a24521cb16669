"""Checkpoints within the training loop: when state is copied, what a copy holds, and how training goes on from one.

Between two steps every worker copies its state; rank 0 then writes the copy on a thread of its own while training goes
on. State is either shared, the same bits on every worker (weights, optimiser), or a worker's own (its part of the
running sums, its random numbers); the own states are gathered, so that one checkpoint holds all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import torch

from batchyard.failpoints import failpoint
from batchyard.training.checkpoint import (
    CheckpointError,
    CheckpointFolder,
    DamagedError,
    Files,
    Name,
    Scalar,
    Snapshot,
)
from batchyard.training.checkpoint_state import Stateful
from batchyard.training.checkpoint_writer import Writer
from batchyard.training.context import PausedError, WorkerContext
from batchyard.training.events import LogLine, Resumed
from batchyard.training.group import Group


class Checkpoints:
    """What the loop calls; every worker makes the same calls.

    Args:
        shared: state that is the same bits on every worker, by name.
        own: state that each worker has for itself; numbers and text in it are the same on all, and so are the shapes.
    """

    def __init__(
        self,
        context: WorkerContext,
        group: Group,
        writer: Writer,
        shared: Mapping[str, Stateful],
        own: Mapping[str, Stateful],
    ) -> None:
        self._context, self._group, self._writer = context, group, writer
        self._shared, self._own = shared, own
        self._folder = CheckpointFolder(context.checkpoint_uri) if context.checkpoint_uri else None

    def resume(self) -> int:
        """Loads the checkpoint that this attempt goes on from. Returns the steps done: 0 at the beginning of a job."""
        content = Files(manifest=b"", tensors=b"")
        if self._group.rank == 0 and self._folder is not None and self._context.attempt > 1:
            content = self._chosen(self._folder)
        content = Files(
            manifest=self._group.from_first(content.manifest), tensors=self._group.from_first(content.tensors)
        )
        if not content.manifest:
            return 0
        snapshot = content.snapshot()
        self._load(snapshot)
        return snapshot.step

    def _chosen(self, folder: CheckpointFolder) -> Files:
        """The newest sound checkpoint up to the one that was asked for; reports it. Only rank 0 reads."""
        context = self._context
        for name in _candidates(folder, context.resume_from):
            try:
                files = folder.read(name, context.job, context.world_size)
            except DamagedError as error:
                text = f"checkpoint {folder.uri(name)} is damaged ({error}); going on from the one before"
                context.emit(LogLine(level="WARNING", text=text, rank=0))
                continue
            failpoint("resume.before_sweep")
            folder.sweep(name.step, context.attempt)
            failpoint("resume.before_report")
            context.emit(Resumed(step=name.step, uri=folder.uri(name)))
            return files
        folder.sweep(0, context.attempt)
        context.emit(Resumed(step=0))
        return Files(manifest=b"", tensors=b"")

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be made after `step`."""
        every = self._context.spec.checkpoint.every_steps
        return self._folder is not None and every > 0 and step % every == 0

    def save(self, step: int, accuracy: float | None = None) -> None:
        """Copies the state after `step`, and has it written while training goes on. `accuracy`: held-out, now."""
        if self._folder is None:
            return
        snapshot = dataclasses.replace(self._snapshot(step), accuracy=accuracy)  # host sync
        if self._group.rank == 0:
            self._writer.begin(self._folder, snapshot)

    def pause(self, step: int, accuracy: float | None = None) -> None:
        """Makes a checkpoint after `step` and raises PausedError, or CheckpointError, when it is durable or cannot be
        written: on every worker alike.
        """
        self.save(step, accuracy)
        failures = torch.tensor(float(not self._writer.wait()), device=self._group.device)
        if self._group.sum_(failures).item():  # host sync
            raise CheckpointError(
                f"the checkpoint of step {step}, which a pause asked for, cannot be written: see the log"
            )
        raise PausedError(f"paused after step {step}")

    def _snapshot(self, step: int) -> Snapshot:
        tensors: dict[str, torch.Tensor] = {}
        scalars: dict[str, Scalar] = {}
        for name, value in _flat("shared", self._shared):
            _put(tensors, scalars, name, value)
        own: dict[str, torch.Tensor] = {}
        for name, value in _flat("own", self._own):
            _put(own, scalars, name, value)
        for rank, each in enumerate(_gathered(own, self._group)):
            tensors |= {f"{rank}/{name}": tensor for name, tensor in each.items()}
        return Snapshot(
            job=self._context.job, step=step, world_size=self._group.world_size, tensors=tensors, scalars=scalars
        )

    def _load(self, snapshot: Snapshot) -> None:
        for prefix, parts in (("shared", self._shared), ("own", self._own)):
            mine = f"{self._group.rank}/{prefix}" if prefix == "own" else prefix
            for part, stateful in parts.items():
                tensors = _below(f"{mine}/{part}/", snapshot.tensors)
                stateful.load_state_dict({**_below(f"{prefix}/{part}/", snapshot.scalars), **tensors})


def _candidates(folder: CheckpointFolder, wanted: str | None) -> list[Name]:
    """The checkpoint that was asked for, then those of earlier steps, newest first."""
    first = Name.parse(wanted.rstrip("/").rpartition("/")[2]) if wanted else None
    return [] if first is None else [first, *(name for name in folder.names() if name.step < first.step)]


def _flat(prefix: str, parts: Mapping[str, Stateful]) -> Iterator[tuple[str, torch.Tensor | Scalar]]:
    for part, stateful in parts.items():
        for name, value in stateful.state_dict().items():
            yield f"{prefix}/{part}/{name}", value


def _put(tensors: dict[str, torch.Tensor], scalars: dict[str, Scalar], name: str, value: torch.Tensor | Scalar) -> None:
    """A copy of a tensor that nothing else writes to, or the value itself."""
    if isinstance(value, torch.Tensor):
        tensors[name] = torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())
    else:
        scalars[name] = value


def _below(prefix: str, values: Mapping[str, torch.Tensor | Scalar]) -> dict[str, torch.Tensor | Scalar]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _gathered(own: Mapping[str, torch.Tensor], group: Group) -> list[dict[str, torch.Tensor]]:
    """Every worker's tensors, in order of rank; all have the same names, shapes and dtypes."""
    pieces = [tensor.reshape(-1).view(torch.uint8) for tensor in own.values()]
    packed = torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.uint8)
    return [_unpacked(each.cpu(), own) for each in group.gather(packed.to(group.device))]


def _unpacked(packed: torch.Tensor, like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    parts = torch.split(packed, [tensor.nbytes for tensor in like.values()])
    return {
        name: part.clone().view(tensor.dtype).view(tensor.shape)
        for (name, tensor), part in zip(like.items(), parts, strict=True)
    }

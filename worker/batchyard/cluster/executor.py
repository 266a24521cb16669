"""The seam between the control plane and whatever runs a job. No torch, no Ray.

An attempt is one try at a job. The executor owns its processes and buffers its events; the control plane polls by
cursor, so that it can die, come back and poll on without losing or repeating anything.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

from batchyard.training.events import Event


@dataclass(frozen=True, kw_only=True)
class AttemptId:
    """Names one try at one job."""

    job: str
    """The job's id, without trainingJobs/."""
    number: int
    """Counted from 1; the fencing epoch."""

    def __str__(self) -> str:
        return f"{self.job}-{self.number}"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Everything an executor needs to run a try: plain data, never user objects."""

    id: AttemptId
    spec: dict[str, Any]
    """TrainingJobSpec.to_mapping() of a validated spec."""
    artifact_uri: str
    """Where the published model goes: a folder that does not exist yet, an fsspec URI."""
    checkpoint_uri: str = ""
    """The folder of the job's checkpoints, of all attempts, an fsspec URI; empty: none are written."""
    resume_from: str | None = None
    """The checkpoint in that folder to go on from."""
    data_folders: tuple[str, ...] = ()
    """Where datasets are looked for, in this order."""
    allow_python: tuple[str, ...] = ()
    """Packages whose code a job may name as its network."""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What the executor could run at once if it were idle."""

    workers: int
    gpus: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Events after the cursor that was asked for."""

    cursor: int
    """To ask with next: the number of events delivered so far."""
    events: tuple[Event, ...] = field(default=())
    """An Ended event is the last of its attempt."""


class UnknownAttemptError(Exception):
    """The executor does not know the attempt: it was never started, was released, or was lost with its machine."""


class ClusterUnavailableError(Exception):
    """There is no cluster to talk to, or it does not answer; says why."""


class Executor(Protocol):
    """Runs attempts. Every method is thread-safe, may block (seconds at most, start aside), and is idempotent."""

    def capacity(self) -> Capacity:
        """What could run at once if nothing else did. Does not start a cluster that is started lazily.

        Raises ClusterUnavailableError.
        """

    def start(self, attempt: Attempt) -> None:
        """Begins the attempt and returns when it is under way or has been refused with an Ended event. The first call
        may start the cluster. An attempt that is already known is left as it is.
        """

    def poll(self, attempt: AttemptId, cursor: int) -> Batch:
        """Events after `cursor` (0: from the beginning), at once; a long list comes in parts. Notices dead processes:
        an attempt whose workers or supervisor died ends with Ended(outcome="failed", failure_class="infrastructure").
        Raises UnknownAttemptError.
        """

    def pause(self, attempt: AttemptId) -> None:
        """Asks the attempt to write a checkpoint and stop. Returns at once; the attempt ends with
        Ended(outcome="paused") when every one of its processes is gone, as succeeded when there was nothing left to
        pause, or otherwise when something happens first. It may still be cancelled. Unknown or ended attempts: no
        effect.
        """

    def cancel(self, attempt: AttemptId) -> None:
        """Asks the attempt to stop: cooperatively, after a grace period by force. Returns at once; the attempt ends
        with Ended(outcome="cancelled") when every one of its processes is gone, or as succeeded when all its workers
        had finished before they could stop. Unknown or ended attempts: no effect.
        """

    def release(self, attempt: AttemptId) -> None:
        """Forgets an ended attempt and frees what it held. Raises RuntimeError when it has not ended."""

    def keep_only(self, attempts: Collection[AttemptId]) -> None:
        """Ends and forgets every attempt but these, which an earlier control plane had no time for. One that is slow to
        stop is forgotten at a later call.
        """

    def close(self) -> None:
        """Stops every attempt and everything the executor started, and waits until no process is left."""

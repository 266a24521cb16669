"""Runs attempts as plain subprocesses of this machine: for machines without Ray, and for fast tests."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from batchyard.cluster import gpus
from batchyard.cluster.attempts import ENTRY, MARK, AttemptFolder, AttemptFolders, locked
from batchyard.cluster.executor import Attempt, AttemptId, Batch, Capacity, UnknownAttemptError
from batchyard.cluster.processes import end_all, marked, reap, spawn
from batchyard.cluster.verdict import infrastructure, too_big
from batchyard.training.events import Ended

EXIT_S = 5.0
"""Time for a supervisor to exit after its last event."""


class LocalExecutor:
    """One supervisor process an attempt, which survives this one: another LocalExecutor on the same folder goes on where
    this one ended.

    Args:
        folder: where attempts live.
        workers: most workers of one attempt, and what `capacity` tells.
        grace_s: seconds between a request to stop and force.
        entry: the training entry, module:function.
    """

    def __init__(self, folder: Path, workers: int, grace_s: float = 5.0, entry: str = ENTRY) -> None:
        self._folder = folder.absolute()
        self._workers = workers
        self._grace_s = grace_s
        self._entry = entry
        self._attempts = AttemptFolders(self._folder)
        self._lock = threading.Lock()

    def capacity(self) -> Capacity:
        """The workers it was given, and the GPUs that CUDA could see."""
        return Capacity(workers=self._workers, gpus=len(gpus.visible()))

    def start(self, attempt: Attempt) -> None:
        """Starts a supervisor, or refuses an attempt that is too big for this machine."""
        with self._lock:
            folder = self._attempts.create(attempt, entry=self._entry, grace_s=self._grace_s)
            with locked(folder.path / "lock"):
                if folder.supervisor() is None and not folder.reader.ended():
                    self._launch(folder)

    def _launch(self, folder: AttemptFolder) -> None:
        orders = folder.orders()
        refusal = too_big(
            workers=orders.world_size,
            gpus_per_worker=orders.gpus_per_worker,
            has=self.capacity(),
            where="this machine",
        )
        if refusal is not None:
            folder.refuse(refusal)
            return
        arguments = [str(folder.path), str(self._folder / "gpus")]
        environment = {**os.environ, MARK: orders.mark}
        folder.set_supervisor(spawn("batchyard.cluster.local_supervisor", arguments, environment, folder.log))

    def poll(self, attempt: AttemptId, cursor: int) -> Batch:
        """Events after `cursor`; an Ended event comes when the supervisor, too, is gone."""
        folder = self._attempts.find(attempt)
        batch = folder.reader.read(cursor)
        if batch.events and isinstance(batch.events[-1], Ended):
            self._await_exit(folder)
        elif not batch.events and self._orphaned(folder):
            self._bury(folder)
            batch = folder.reader.read(cursor)
        return batch

    def _orphaned(self, folder: AttemptFolder) -> bool:
        """Whether nobody writes the events although the attempt has not ended."""
        if folder.reader.ended():
            return False
        supervisor = folder.supervisor()
        if supervisor is None:
            # Between the making of the folder and the start of its supervisor lies one lock; who holds it goes on.
            with self._lock, locked(folder.path / "lock"):
                return folder.supervisor() is None
        reap(supervisor)
        return not supervisor.alive()

    def _bury(self, folder: AttemptFolder) -> None:
        supervisor = folder.supervisor()
        who = "had not been started" if supervisor is None else f"(process {supervisor.pid}) died"
        said = folder.log.read_text(errors="replace").strip()[-2000:] if folder.log.exists() else ""
        cause = f"the attempt's supervisor {who}" + (f"; it wrote:\n{said}" if said else "")
        folder.bury(infrastructure(cause, folder.orders().attempt.id.job))

    def _await_exit(self, folder: AttemptFolder) -> None:
        supervisor = folder.supervisor()
        if supervisor is None:
            return
        if not supervisor.await_end(EXIT_S):
            supervisor.send(signal.SIGKILL)
            supervisor.await_end(EXIT_S)
        reap(supervisor)

    def cancel(self, attempt: AttemptId) -> None:
        """Signals the supervisor, which asks the workers to stop and kills them after the grace period."""
        try:
            supervisor = self._attempts.find(attempt).supervisor()
        except UnknownAttemptError:
            return
        if supervisor is not None:
            supervisor.send(signal.SIGTERM)

    def release(self, attempt: AttemptId) -> None:
        """Removes the attempt's folder. Raises RuntimeError when it has not ended."""
        try:
            folder = self._attempts.find(attempt)
        except UnknownAttemptError:
            return
        if not folder.reader.ended():
            raise RuntimeError(f"attempt {attempt} has not ended; cancel it first")
        self._await_exit(folder)
        self._attempts.forget(attempt)

    def close(self) -> None:
        """Cancels every attempt that has not ended and waits until its processes are gone."""
        with self._lock:
            left = self._attempts.unended()
            for folder in left:
                self.cancel(folder.orders().attempt.id)
            deadline = time.monotonic() + self._grace_s + EXIT_S
            for folder in left:
                self._finish(folder, deadline)

    def _finish(self, folder: AttemptFolder, deadline: float) -> None:
        supervisor = folder.supervisor()
        if supervisor is not None and not supervisor.await_end(max(0.0, deadline - time.monotonic())):
            mark = folder.orders().mark
            end_all(lambda: marked(MARK, mark))
        if supervisor is not None:
            reap(supervisor)
        folder.bury(Ended(outcome="cancelled"))

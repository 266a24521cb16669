"""What both executors do alike: attempts live in folders, events are read from files, and an attempt whose writer is
dead is given an end.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path

from batchyard.cluster.attempts import ENTRY, AttemptFolder, AttemptFolders, locked
from batchyard.cluster.executor import Attempt, AttemptId, Batch, Capacity, UnknownAttemptError
from batchyard.cluster.verdict import too_big
from batchyard.training.events import Ended


class FolderExecutor(ABC):
    """Implements the Executor protocol but for what runs the attempts.

    Args:
        folder: where attempts live; another executor on the same folder goes on where this one ended.
        workers: most workers at once.
        grace_s: seconds between a request to stop and force.
        entry: the training entry, module:function.
    """

    def __init__(self, folder: Path, workers: int, grace_s: float, entry: str = ENTRY) -> None:
        self._folder = folder.absolute()
        self._workers = workers
        self._grace_s = grace_s
        self._entry = entry
        self._attempts = AttemptFolders(self._folder)
        self._lock = threading.Lock()
        """Held while attempts are started and while everything is ended."""

    @abstractmethod
    def capacity(self) -> Capacity:
        """What could run at once if nothing else did."""

    @abstractmethod
    def _launch(self, folder: AttemptFolder) -> None:
        """Has the attempt supervised."""

    @abstractmethod
    def _orphaned(self, folder: AttemptFolder) -> bool:
        """Whether nobody writes the attempt's events any more."""

    @abstractmethod
    def _bury(self, folder: AttemptFolder) -> None:
        """Ends an orphaned attempt."""

    @abstractmethod
    def _stop(self, folder: AttemptFolder) -> None:
        """Passes the request to cancel on to the supervisor."""

    @abstractmethod
    def _pause(self, folder: AttemptFolder) -> None:
        """Passes the request to pause on to the supervisor."""

    @abstractmethod
    def _await_exit(self, folder: AttemptFolder) -> None:
        """Waits until the supervisor of an ended attempt is gone."""

    def start(self, attempt: Attempt) -> None:
        """Starts the attempt, or refuses one that is too big. One that is known is left as it is."""
        with self._lock:
            folder = self._attempts.create(attempt, entry=self._entry, grace_s=self._grace_s)
            with locked(folder.path / "start.lock"):
                if folder.supervisor() is None and not folder.reader.ended():
                    self._launch(folder)

    def _refused(self, folder: AttemptFolder, has: Capacity, where: str) -> bool:
        """Ends an attempt that can never run here."""
        orders = folder.orders()
        refusal = too_big(workers=orders.world_size, gpus_per_worker=orders.gpus_per_worker, has=has, where=where)
        if refusal is not None:
            folder.refuse(refusal)
        return refusal is not None

    def poll(self, attempt: AttemptId, cursor: int) -> Batch:
        """Events after `cursor`, about a megabyte at most; an Ended event comes when the supervisor, too, is gone."""
        folder = self._attempts.find(attempt)
        batch = folder.reader.read(cursor)
        if batch.events and isinstance(batch.events[-1], Ended):
            self._await_exit(folder)
        elif not batch.events and not folder.reader.ended() and self._abandoned(folder):
            self._bury(folder)
            batch = folder.reader.read(cursor)
        return batch

    def _abandoned(self, folder: AttemptFolder) -> bool:
        if folder.supervisor() is not None:
            return self._orphaned(folder)
        # Not under way yet. Whoever starts it holds the lock; if nobody does, its starter has died.
        if not self._lock.acquire(blocking=False):
            return False
        try:
            with locked(folder.path / "start.lock"):
                return folder.supervisor() is None
        finally:
            self._lock.release()

    def pause(self, attempt: AttemptId) -> None:
        """Asks the workers to write a checkpoint and stop."""
        folder = self._noted(attempt, "paused")
        if folder is not None:
            self._pause(folder)

    def cancel(self, attempt: AttemptId) -> None:
        """Asks the workers to stop; they are killed after the grace period."""
        folder = self._noted(attempt, "cancelled")
        if folder is not None:
            self._stop(folder)

    def _noted(self, attempt: AttemptId, request: str) -> AttemptFolder | None:
        """The attempt's folder, with a file for a supervisor that starts later than this; None: it is not known."""
        try:
            folder = self._attempts.find(attempt)
            (folder.path / request).touch()
        except (UnknownAttemptError, FileNotFoundError):
            return None
        return folder

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

    def keep_only(self, attempts: Collection[AttemptId]) -> None:
        """Ends and forgets every attempt but these, and removes what was left of folders half made or half removed."""
        self._attempts.sweep()
        for attempt in self._attempts.all():
            if attempt not in attempts:
                self.cancel(attempt)
                self.poll(attempt, 0)  # one that nobody supervises is ended by this
                if self._attempts.find(attempt).reader.ended():
                    self.release(attempt)

"""The data folder: who owns it, and what lies where.

batchyard.db        jobs, events, models (with -wal and -shm beside it)
artifacts/          a folder for each published model
checkpoints/        a folder for each job, with its newest checkpoints
executor/           what the executor keeps of the attempts that run
tasks/              files of imports and exports under way
inference/          the inference plane's cache; inference.log is what it prints
control.json        where everything answers; there while the service runs
control.lock        held by the control plane that owns the folder
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any, Self

from batchyard.control.holder import Holder


class FolderInUseError(Exception):
    """Another control plane owns the data folder."""


class DataFolder:
    """A data folder that this process owns until `release` or its death."""

    def __init__(self, path: Path, lock: int, holder: Holder) -> None:
        self.path = path
        self._lock = lock
        self.holder = holder

    @classmethod
    def own(cls, path: Path, now: float) -> Self:
        """Creates the folder where needed and takes it. `now` is what the next one is told of us. Raises
        FolderInUseError.
        """
        path = path.absolute()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path / "control.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(os.read(lock, 4096))
            os.close(lock)
            raise FolderInUseError(
                f"data folder {path} is in use by another control plane ({owner}): stop that one with "
                f"`batchyard down --data-dir {path}`, choose another --data-dir, or run this one with --standby to "
                "take over when that one ends"
            ) from None
        holder = Holder.this_process(now)
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps(vars(holder)).encode(), 0)
        return cls(path, lock, holder)

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.path / "batchyard.db"

    @property
    def artifacts(self) -> str:
        """The fsspec URI below which artifacts go. fsspec takes such a path as it is, without percent signs."""
        return f"file://{self.path / 'artifacts'}"

    @property
    def checkpoints(self) -> str:
        """The fsspec URI below which checkpoints go."""
        return f"file://{self.path / 'checkpoints'}"

    @property
    def executor(self) -> Path:
        """The executor's own folder."""
        return self.path / "executor"

    @property
    def tasks(self) -> Path:
        """Scratch space of the tasks that run for calls."""
        return self.path / "tasks"

    @property
    def inference(self) -> Path:
        """The inference plane's cache."""
        return self.path / "inference"

    @property
    def inference_log(self) -> Path:
        """What the inference plane prints."""
        return self.path / "inference.log"

    @property
    def inference_ready(self) -> Path:
        """What the inference plane writes once it answers."""
        return self.path / "inference.json"

    @property
    def inference_pid(self) -> Path:
        """Which process it is, for a control plane that comes after one that was killed."""
        return self.path / "inference.pid"

    def announce(self, facts: dict[str, Any]) -> None:
        """Writes control.json, readable by its owner alone, so that readers see it whole or not at all."""
        fresh = self.path / f".control.json.{os.getpid()}"
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(facts, file, indent=2)
            file.write("\n")
        fresh.replace(self.path / "control.json")

    def withdraw(self) -> None:
        """Removes control.json."""
        (self.path / "control.json").unlink(missing_ok=True)

    def release(self) -> None:
        """Gives the folder up."""
        os.close(self._lock)


def _owner(text: bytes) -> str:
    """Who wrote this into the lock file; it may be just about to."""
    try:
        return str(Holder(**json.loads(text)))
    except (ValueError, TypeError):
        return "which it is cannot be told yet"

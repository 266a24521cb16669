"""Attempts on disk: a folder each, with its orders and its events. What both executors have in common.

attempts/JOB-NUMBER/attempt.json     everything its supervisor needs to know
attempts/JOB-NUMBER/events.jsonl     its events; the last one is Ended
attempts/JOB-NUMBER/supervisor.json  the process that writes the events
attempts/JOB-NUMBER/supervisor.log   what that process prints
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchyard.cluster.event_log import EventLog, EventReader
from batchyard.cluster.executor import Attempt, AttemptId, UnknownAttemptError
from batchyard.cluster.processes import ProcessId, end_all, marked
from batchyard.failpoints import failpoint
from batchyard.training.events import Ended, from_json

ENTRY = "batchyard.training.worker:run"
"""The training entry: takes a WorkerContext, returns when the worker's part is done."""
MARK = "BATCHYARD_ATTEMPT"
"""The environment variable that all processes of an attempt carry, with Orders.mark as its value."""
LEGAL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, kw_only=True)
class Orders:
    """Everything a supervisor needs to know. Plain data, so that no pickle has to be trusted."""

    attempt: Attempt
    entry: str
    """module:function."""
    grace_s: float
    """Seconds from a request to stop until workers are killed."""
    mark: str

    @property
    def world_size(self) -> int:
        """Workers."""
        return int(self.attempt.spec["workers"]["count"])

    @property
    def gpus_per_worker(self) -> int:
        """GPUs of each worker."""
        return int(self.attempt.spec["workers"]["gpus_per_worker"])

    @property
    def hung_after_s(self) -> float:
        """Seconds that all workers may give no sign of life; 0: for ever, as in specs from before there was a limit."""
        return float(self.attempt.spec["workers"].get("hung_after_seconds", 0.0))

    @property
    def placement(self) -> str:
        """One of PLACEMENTS; workers of specs from before there was a choice were packed."""
        return str(self.attempt.spec["workers"].get("placement", "pack"))

    def to_json(self) -> str:
        """Text that `from_json` reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Orders:
        """The orders that `to_json` wrote."""
        values = json.loads(text)
        attempt = values.pop("attempt")
        identity = AttemptId(**attempt.pop("id"))
        attempt.update({name: tuple(attempt.get(name, ())) for name in ("data_folders", "allow_python")})
        return cls(attempt=Attempt(id=identity, **attempt), **values)


class AttemptFolder:
    """One attempt on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events = path / "events.jsonl"
        self.log = path / "supervisor.log"
        self.cancelled = path / "cancelled"
        self.paused = path / "paused"
        self.end = path / "end.json"
        self.reader = EventReader(self.events)

    def orders(self) -> Orders:
        """What its supervisor was told."""
        return Orders.from_json((self.path / "attempt.json").read_text())

    def supervisor(self) -> ProcessId | None:
        """The process that writes its events; None before there is one."""
        try:
            return ProcessId(**json.loads((self.path / "supervisor.json").read_text()))
        except FileNotFoundError:
            return None

    def set_supervisor(self, process: ProcessId) -> None:
        """Notes who writes the events."""
        write_json(self.path / "supervisor.json", dataclasses.asdict(process))

    def refuse(self, ended: Ended) -> None:
        """Ends an attempt that has no supervisor."""
        log = EventLog(self.events)
        log.append(ended)
        log.close()

    def bury(self, ended: Ended) -> None:
        """Ends an attempt whose supervisor is dead: kills what it left behind, then writes the end that is known, or
        else `ended`, unless there is an end already.
        """
        with locked(self.path / "lock"):
            if not self.reader.ended():
                failpoint("burial.before_kill")
                mark = self.orders().mark
                end_all(lambda: marked(MARK, mark))
                known = from_json(json.loads(self.end.read_text())) if self.end.exists() else None
                self.refuse(known if isinstance(known, Ended) else ended)


class AttemptFolders:
    """All attempts below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "attempts"
        self._known: dict[str, AttemptFolder] = {}
        self._lock = threading.Lock()

    def create(self, attempt: Attempt, *, entry: str, grace_s: float) -> AttemptFolder:
        """The attempt's folder, made whole or found as it is."""
        name = str(attempt.id)
        if not LEGAL_ID.fullmatch(name):
            raise ValueError(f"attempt id: {name!r} given; expected letters, digits, '.', '_' and '-'")
        path = self._folder / name
        if not path.exists():
            orders = Orders(attempt=attempt, entry=entry, grace_s=grace_s, mark=uuid.uuid4().hex)
            self._make(path, orders)
        return self.find(attempt.id)

    def _make(self, path: Path, orders: Orders) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._folder / f".{uuid.uuid4().hex}"
        fresh.mkdir(mode=0o700)
        (fresh / "attempt.json").write_text(orders.to_json())
        (fresh / "events.jsonl").touch(mode=0o600)
        failpoint("attempt.before_rename")
        try:
            fresh.rename(path)
            failpoint("attempt.after_rename")
        except OSError:  # another thread or process was faster
            shutil.rmtree(fresh)

    def find(self, attempt: AttemptId) -> AttemptFolder:
        """The attempt's folder. Raises UnknownAttemptError."""
        name = str(attempt)
        with self._lock:
            if not (self._folder / name / "attempt.json").exists() or not LEGAL_ID.fullmatch(name):
                self._known.pop(name, None)
                raise UnknownAttemptError(f"attempt {name} is not known to this executor")
            return self._known.setdefault(name, AttemptFolder(self._folder / name))

    def all(self) -> list[AttemptId]:
        """Every attempt that has a folder."""
        return [folder.orders().attempt.id for folder in self._folders()]

    def unended(self) -> list[AttemptFolder]:
        """Attempts that have no Ended event yet."""
        return [folder for folder in self._folders() if not folder.reader.ended()]

    def _folders(self) -> list[AttemptFolder]:
        found = sorted(self._folder.iterdir()) if self._folder.exists() else []
        return [AttemptFolder(path) for path in found if not path.name.startswith(".")]

    def sweep(self) -> None:
        """Removes what was left when a folder was half made or half removed; nobody may be doing either."""
        for path in self._folder.glob(".*"):
            shutil.rmtree(path)

    def forget(self, attempt: AttemptId) -> None:
        """Removes the attempt's folder."""
        folder = self.find(attempt)
        with self._lock:
            self._known.pop(str(attempt), None)
        # Gone from one moment to the next, whatever interrupts the removal.
        grave = self._folder / f".{uuid.uuid4().hex}"
        folder.path.rename(grave)
        shutil.rmtree(grave)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a small file so that readers see it whole or not at all."""
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(value, file)
    fresh.rename(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock against threads and processes; a dead holder's lock is free."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)

"""The little that tests need to talk to executors."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from batchyard.cluster.attempts import MARK, AttemptFolder, AttemptFolders
from batchyard.cluster.executor import Attempt, AttemptId, Executor, UnknownAttemptError
from batchyard.cluster.fork_client import ForkServer
from batchyard.cluster.local import LocalExecutor
from batchyard.cluster.processes import ProcessId, marked
from batchyard.cluster.ray_executor import RayExecutor
from batchyard.cluster.ray_link import MARK as RAY_MARK
from batchyard.training.events import Ended, Event, LogLine
from batchyard.training.spec import DataSpec, ModelSpec, TrainingJobSpec, WorkersSpec

WITHIN_S = 60.0
WORKERS = 3

T = TypeVar("T")


def eventually(look: Callable[[], T], what: str, within_s: float = WITHIN_S) -> T:
    """Looks until it sees something true."""
    deadline = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < deadline, f"still not after {within_s} s: {what}"
        time.sleep(0.02)
    return seen


def spec(workers: int = 2, steps: int = 3) -> TrainingJobSpec:
    return TrainingJobSpec(
        name="test",
        model=ModelSpec(architecture="mlp"),
        data=DataSpec(dataset="digits"),
        steps=steps,
        workers=WorkersSpec(count=workers),
    )


@dataclass
class Bench:
    """One kind of executor, as many as a test wants, all on one folder."""

    kind: str
    folder: Path
    notes: Path
    build: Callable[[Path, str, float], Executor]
    runs: list[Run] = field(default_factory=list)

    def executor(self, entry: str, grace_s: float = 0.5) -> Executor:
        return self.build(self.folder, f"tests.cluster.entries:{entry}", grace_s)

    def attempt(self, workers: int = 2, steps: int = 3) -> Attempt:
        identity = AttemptId(job=f"test-{uuid.uuid4().hex[:8]}", number=1)
        return Attempt(
            id=identity, spec=spec(workers, steps).to_mapping(), artifact_uri=str(self.notes / str(identity))
        )

    def processes(self) -> list[int]:
        """Everything that this kind of executor has started, Ray included."""
        record = self.folder / "ray" / "driver.json"
        return [p.pid for p in marked(RAY_MARK, json.loads(record.read_text())["mark"])] if record.exists() else []

    def start(self, entry: str, workers: int = 2, grace_s: float = 0.5, steps: int = 3) -> Run:
        executor = self.executor(entry, grace_s)
        attempt = self.attempt(workers, steps)
        executor.start(attempt)
        self.runs.append(Run(self, executor, attempt))
        return self.runs[-1]

    def run_of(self, job: str) -> Run:
        """An attempt that another process has started in the same folders."""
        identity = AttemptId(job=job, number=1)
        attempt = Attempt(id=identity, spec=spec().to_mapping(), artifact_uri=str(self.notes / str(identity)))
        return Run(self, self.executor("succeed"), attempt)

    def clear(self) -> None:
        """Ends whatever a failed test has left running."""
        for run in self.runs:
            with contextlib.suppress(UnknownAttemptError):
                run.executor.cancel(run.attempt.id)
                run.events()


@dataclass
class Run:
    """A started attempt."""

    bench: Bench
    executor: Executor
    attempt: Attempt

    def events(self, cursor: int = 0) -> list[Event]:
        """All events to the last."""
        found: list[Event] = []

        def look() -> bool:
            batch = self.executor.poll(self.attempt.id, cursor + len(found))
            found.extend(batch.events)
            assert batch.cursor == cursor + len(found)
            return bool(found) and isinstance(found[-1], Ended)

        eventually(look, f"the attempt has ended; so far {found}")
        return found

    def ended(self) -> Ended:
        last = self.events()[-1]
        assert isinstance(last, Ended)
        return last

    def log(self) -> list[str]:
        return [event.text for event in self.events() if isinstance(event, LogLine)]

    def note(self, name: str) -> str:
        """What a worker has left, as soon as it is there."""
        path = Path(self.attempt.artifact_uri) / name
        eventually(path.exists, f"{name} is there")
        return path.read_text()

    def pids(self, workers: int = 2) -> list[int]:
        return [int(self.note(f"pid-{rank}")) for rank in range(workers)]

    def folder(self) -> AttemptFolder:
        return AttemptFolders(self.bench.folder).find(self.attempt.id)

    def supervisor(self) -> ProcessId:
        found = self.folder().supervisor()
        assert found is not None
        return found

    def processes(self) -> list[int]:
        """Everything that runs for this attempt, by its mark."""
        return [process.pid for process in marked(MARK, self.folder().orders().mark)]


def local_bench(folder: Path, notes: Path, fork_server: ForkServer | None = None) -> Bench:
    def build(at: Path, entry: str, grace_s: float) -> Executor:
        return LocalExecutor(at, WORKERS, grace_s, entry, fork_server)

    return Bench("local", folder, notes, build)


def ray_bench(folder: Path, notes: Path, address: str | None = None, *, warm: bool = False) -> Bench:
    def build(at: Path, entry: str, grace_s: float) -> Executor:
        return RayExecutor(at, address, WORKERS, grace_s, entry, warm=warm)

    return Bench("ray", folder, notes, build)

"""The service under test: its processes, how to call it, and how to break it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from batchyard.client.channel import open_channel
from batchyard.cluster.attempts import MARK
from batchyard.cluster.forked_worker import NO_MARK
from batchyard.cluster.processes import PROC, ProcessId, end_all, marked
from batchyard.v1.models_pb2_grpc import ModelServiceStub
from batchyard.v1.training_pb2_grpc import TrainingServiceStub
from tests.chaos import forge

WORKERS = 2
JOBS_OF_A_USER = 1
"""That may run at once."""
START_S = 60.0
STOP_S = 60.0


@contextmanager
def forging(folder: Path) -> Iterator[str]:
    """A forge; its address."""
    folder.mkdir(parents=True, exist_ok=True)
    address = str(folder / "forge")
    environment = {**os.environ, **forge.MARKS, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.chaos.forge", address, str(os.getpid())]
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:  # Ctrl-C is for us
        try:
            until(lambda: Path(address).exists() or process.poll() is not None, START_S, "the forge is ready")
            yield address
        finally:
            process.kill()


def until(condition: Callable[[], object], within_s: float, what: str) -> None:
    """Returns once it holds. Raises TimeoutError."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s:g} s: {what}")
        time.sleep(0.01)


class Service:
    """One data folder, and the control planes that come and go on it.

    Args:
        data: the data folder.
        forge_address: of a forge; None starts every process as a user's shell would.
        executor: local or ray.
    """

    def __init__(self, data: Path, forge_address: str | None, executor: str = "local") -> None:
        self.data = data
        self._forge = forge_address
        self.executor = executor
        self.mark = uuid.uuid4().hex
        self.rules = data.parent / "rules"
        self.state = data.parent / "failpoints"
        self.log = data.parent / "control.log"
        self._clock = data.parent / "clock"
        self.process: ProcessId | None = None
        self._waiting: list[ProcessId] = []
        """Control planes that stand by."""
        self._armed: dict[str, str] = {}
        data.mkdir(parents=True)

    def start(self) -> None:
        """Starts a control plane; does not wait until it answers."""
        self.process = self._started()

    def stand_by(self) -> None:
        """Starts another one, which waits for the end of the first."""
        process = self._started("--standby")
        if process is not None:
            self._waiting.append(process)

    def promote(self) -> bool:
        """Takes one that stands by for the control plane, now that there is no other; False when there is none."""
        while self._waiting:
            self.process = self._waiting.pop(0)
            if self.running:
                return True
        return False

    def _started(self, *more: str) -> ProcessId | None:
        arguments = ["--data-dir", str(self.data), "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--no-inference"]
        arguments += ["--executor", self.executor, "--workers", str(WORKERS)]
        arguments += ["--user-jobs", str(JOBS_OF_A_USER), *more]
        own = {
            forge.HISTORY_MARK: self.mark,
            "BATCHYARD_FAILPOINTS": f"@{self.rules}",
            "BATCHYARD_FAILPOINTS_STATE": str(self.state),
            "BATCHYARD_DATA": "",
            "BATCHYARD_FETCH": "no",
            forge.CLOCK: str(self._clock),
            "OMP_NUM_THREADS": "1",
        }
        environment = {**os.environ, **own}
        if self._forge is not None:
            with self.log.open("ab") as log, Path(os.devnull).open("rb") as nothing:
                pid = forge.ask(self._forge, "control", arguments, environment, [nothing.fileno(), log.fileno()])
        else:
            with self.log.open("ab") as log:
                command = [sys.executable, "-m", "batchyard.control", *arguments]
                # Its end is noticed by its ProcessId: a zombie does not run.
                pid = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True).pid
        return ProcessId.of(pid)

    def move_clock(self, seconds: float) -> None:
        """From now on the control plane's clock is so much ahead. Only a forge's can be moved."""
        self._clock.write_text(str(seconds))

    @property
    def running(self) -> bool:
        """Whether there is a control plane's process."""
        return self.process is not None and self.process.alive()

    def answers(self) -> bool:
        """Whether the control plane that runs has said that all of it is up."""
        try:
            facts = json.loads((self.data / "control.json").read_text())
        except FileNotFoundError:
            return False
        return self.process is not None and facts["pid"] == self.process.pid and self.running

    def call(self, name: str, request: object, *, user: str = "", within_s: float = 5.0) -> object:
        """Calls a method of TrainingService, or SetAlias. Raises grpc.RpcError, also where nobody is there."""
        with self.channel() as channel:
            stub = ModelServiceStub(channel) if name == "SetAlias" else TrainingServiceStub(channel)
            answer: object = getattr(stub, name)(
                request, timeout=within_s, metadata=[("batchyard-user", user)] if user else []
            )
            return answer

    def channel(self) -> grpc.Channel:
        """To the control plane that was last announced."""
        try:
            address = json.loads((self.data / "control.json").read_text())["grpc"]
        except FileNotFoundError:
            address = "127.0.0.1:1"  # nobody: refused at once
        return open_channel(address, None)

    def stop(self) -> None:
        """SIGTERM, and waits for the end; nobody takes over. Raises TimeoutError."""
        for waiting in self._waiting:
            waiting.send(signal.SIGTERM)
            until(lambda waiting=waiting: not waiting.alive(), STOP_S, "a control plane that stands by ends")  # type: ignore[misc]
        self._waiting.clear()
        process = self.process
        if process is not None and process.send(signal.SIGTERM):
            until(lambda: not process.alive(), STOP_S, "the control plane stops")

    def attempts(self) -> dict[str, str]:
        """Attempts that the executor holds, with the mark of their processes."""
        found = {}
        for path in (self.data / "executor" / "attempts").glob("[!.]*/attempt.json"):
            try:
                found[path.parent.name] = json.loads(path.read_text())["mark"]
            except FileNotFoundError:  # released meanwhile
                continue
        return found

    def supervisor(self, attempt: str) -> ProcessId | None:
        """The process that supervises an attempt, if it is known and runs."""
        try:
            found = ProcessId(**json.loads((self.data / "executor/attempts" / attempt / "supervisor.json").read_text()))
        except FileNotFoundError:
            return None
        return found if found.alive() else None

    def head(self, part: str = "head") -> list[ProcessId]:
        """Of a Ray head of our own: head, the driver process, with which all of it ends; or a raylet or gcs_server."""
        if part != "head":
            return [each for each in self.processes() if _comm(each) == part]
        try:
            record = json.loads((self.data / "executor/ray/driver.json").read_text())
        except FileNotFoundError:
            return []
        return [ProcessId(**record["process"])] if record.get("process") else []

    def fork_servers(self) -> list[ProcessId]:
        """The processes that supervisors and workers are forked from: those without an attempt's mark of their own."""
        ours = {self.process, *self._waiting}
        unmarked = set(marked(MARK, NO_MARK)) - ours
        return [each for each in self.processes() if each in unmarked and _leads(each)]

    def crew(self, mark: str) -> tuple[list[ProcessId], list[ProcessId]]:
        """The attempt's supervisors, one it should be, and its workers: a supervisor leads a session."""
        found = marked(MARK, mark)
        return [each for each in found if _leads(each)], [each for each in found if not _leads(each)]

    def arm(self, rules: str) -> None:
        """Arms more failpoints, and counts them from now on."""
        for rule in rules.split():
            name = rule.partition("=")[0]
            self._armed[name] = rule
            (self.state / f"{name}.count").unlink(missing_ok=True)
        self._write(self._armed.values())

    def disarm(self) -> None:
        """From now on no failpoint does anything."""
        self._write(())

    def _write(self, rules: Iterable[str]) -> None:
        fresh = self.rules.with_suffix(".new")
        fresh.write_text("\n".join(rules))
        fresh.rename(self.rules)

    def fired(self) -> list[dict[str, object]]:
        """The failpoints that have fired."""
        file = self.state / "fired.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def processes(self) -> list[ProcessId]:
        """Whatever runs for this history."""
        return marked(forge.HISTORY_MARK, self.mark)

    def clear(self) -> None:
        """Ends whatever is left."""
        end_all(self.processes)


def _comm(process: ProcessId) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return (PROC / str(process.pid) / "comm").read_text().strip()
    return ""


def _leads(process: ProcessId) -> bool:
    try:
        return os.getsid(process.pid) == process.pid
    except ProcessLookupError:
        return False

"""`python -m batchyard.control` as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from batchyard.cluster.processes import writing_below
from batchyard.control.process_watch import command_of

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "BATCHYARD_DATA": ""}
PATIENCE = 60.0
FREE_PORTS = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--inference-grpc", "127.0.0.1:0"]


class Service:
    """A control plane in a process of its own."""

    def __init__(self, data: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.data = data
        command = [sys.executable, "-W", "error", "-m", "batchyard.control", "--data-dir", str(data)]
        command += [*FREE_PORTS, "--inference-http", "127.0.0.1:0", "--executor", "local", "--workers", "2", *arguments]
        data.mkdir(exist_ok=True)
        with (data / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**ENVIRONMENT, **(environment or {})})

    def facts(self) -> dict[str, Any]:
        """control.json."""
        found = json.loads((self.data / "control.json").read_text())
        assert isinstance(found, dict)
        return found

    def until_ready(self) -> Service:
        """Itself, once control.json is there."""

        def ready() -> bool:
            assert self.process.poll() is None, (self.data / "log").read_text()
            return (self.data / "control.json").exists() and self.facts()["pid"] == self.process.pid

        wait_until(ready)
        return self

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Asks it to stop; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextmanager
def serving(data: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Service]:
    """A service that answers; it and everything that works on its folder are gone at the end."""
    service = Service(data, *arguments, environment=environment)
    try:
        yield service.until_ready()
    finally:
        service.kill()
        for pid in working_on(data):
            with suppress(ProcessLookupError):  # it went with its parent
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not working_on(data))


def until_serving(channel: grpc.Channel) -> None:
    """Returns once health says SERVING: the inference plane first has to hear from the control plane what to serve."""
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
    next(answer for answer in watch if answer.status == health_pb2.HealthCheckResponse.SERVING)


def refused(*arguments: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit status and standard error of a service that does not come up."""
    command = [sys.executable, "-m", "batchyard.control", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, env={**ENVIRONMENT, **(environment or {})}
    )
    return done.returncode, done.stderr


def working_on(data: Path) -> list[int]:
    """Processes that name this data folder in their command, or write below it: a fork bears its server's command."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    named = {pid for pid in pids if any(str(data) in part for part in command_of(pid)) and alive(pid)}
    return sorted(named | {process.pid for process in writing_below(data)})


def alive(pid: int) -> bool:
    """Whether the process runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Any) -> None:
    """Returns once the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)

"""The control plane's end of the driver process: starts it, finds it again, asks it, and makes sure that it is gone."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from batchyard.cluster.attempts import locked, write_json
from batchyard.cluster.executor import ClusterUnavailableError
from batchyard.cluster.processes import ProcessId, end_all, marked, reap, spawn, writing_below
from batchyard.cluster.ray_settings import environment, temporary_folder

READY_S = 90.0
"""How long Ray may take to start, or to be reached."""
MARK = "BATCHYARD_RAY"
"""The environment variable that the driver and everything below it carries."""


class RayLink:
    """One driver process, remembered in `folder` so that a later control plane finds it.

    Args:
        folder: for the record, the token, the log and, where its path is short enough, Ray's own files.
        attempts: the executor's folder.
        address: an existing cluster, or None for a head of our own.
        workers: CPUs of that head.
        warm: whether workers are forked from processes that have loaded torch.
    """

    def __init__(self, folder: Path, attempts: Path, address: str | None, workers: int, *, warm: bool) -> None:
        self._folder = folder
        self._attempts = attempts
        self._address = address
        self._workers = workers
        self._warm = warm
        self._record = folder / "driver.json"
        self.log = folder / "driver.log"

    def alive(self) -> bool:
        """Whether the driver runs; it may not answer yet."""
        record = self._read()
        return record is not None and self._process(record) is not None

    def _read(self) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads(self._record.read_text())
        except FileNotFoundError:
            return None
        return record

    def _process(self, record: dict[str, Any]) -> ProcessId | None:
        if record.get("process") is None:
            return None
        process = ProcessId(**record["process"])
        reap(process)
        return process if process.alive() else None

    def ensure(self) -> None:
        """Starts a driver unless one runs. Does not wait until it answers."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self._folder / "lock"):
            if not self.alive():
                self._sweep()
                self._spawn()

    def _spawn(self) -> None:
        temporary = temporary_folder(self._folder)
        record: dict[str, Any] = {"mark": uuid.uuid4().hex, "temporary": str(temporary)}
        # Written before there is a process, so that one that nobody can remember is found by its mark.
        write_json(self._record, record)
        config = {
            "address": self._address,
            "workers": self._workers,
            "temporary": str(temporary),
            "namespace": self._namespace(),
            "warm": self._warm,
        }
        variables = environment(os.environ, self._folder, own_head=self._address is None)
        arguments = [str(self._attempts), json.dumps(config)]
        self.log.unlink(missing_ok=True)
        process = spawn("batchyard.cluster.ray_driver", arguments, {**variables, MARK: record["mark"]}, self.log)
        write_json(self._record, {**record, "process": asdict(process)})

    def _namespace(self) -> str:
        """Several control planes may use one cluster: each has names of its own, which outlive its driver."""
        path = self._folder / "namespace"
        if not path.exists():
            path.write_text(f"batchyard-{secrets.token_hex(8)}")
        return path.read_text()

    def ask(self, do: str, *, answer_s: float, ready_s: float = READY_S, **arguments: Any) -> Any:
        """Has the driver do something; waits `ready_s` while it is starting. Raises ClusterUnavailableError."""
        with socket.socket(socket.AF_UNIX) as connection:
            self._connect(connection, time.monotonic() + ready_s)
            try:
                connection.settimeout(answer_s)
                connection.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
                with connection.makefile("rb") as lines:
                    answer = json.loads(lines.readline() or "null")
            except OSError as error:
                raise ClusterUnavailableError(f"the Ray driver does not answer: {error}") from error
        if answer is None:
            raise self._down()
        if "error" in answer:
            raise ClusterUnavailableError(f"Ray refused to {do}: {answer['error']}")
        return answer["value"]

    def _connect(self, connection: socket.socket, deadline: float) -> None:
        while True:
            record = self._read()
            if record is None or self._process(record) is None:
                raise self._down()
            try:
                connection.connect(f"{record['temporary']}/driver")
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ClusterUnavailableError(f"Ray did not start in time; see {self.log}") from error
            time.sleep(0.02)

    def _down(self) -> ClusterUnavailableError:
        said = self.log.read_text(errors="replace").strip()[-2000:] if self.log.exists() else ""
        what = "the Ray head" if self._address is None else f"the connection to Ray at {self._address}"
        return ClusterUnavailableError(f"{what} is gone" + (f"; its log ends with:\n{said}" if said else ""))

    def why_down(self) -> str:
        """What is known of a driver that has ended."""
        return str(self._down())

    def end(self, grace_s: float) -> None:
        """Ends all attempts, then the driver and everything that it started; returns when all of it is gone."""
        if not self._folder.exists():
            return
        with locked(self._folder / "lock"):
            record = self._read()
            if record is None:
                return
            process = self._process(record)
            if process is not None:
                self._end_kindly(process, grace_s)
            self._sweep()

    def _end_kindly(self, process: ProcessId, grace_s: float) -> None:
        try:
            self.ask("end", answer_s=grace_s + 15, ready_s=0.0, within_s=grace_s + 10)
            process.await_end(15.0)
        except ClusterUnavailableError:
            process.send(signal.SIGTERM)
            process.await_end(5.0)
        reap(process)

    def sweep_if_down(self) -> None:
        """Kills what a dead driver has left behind. Raises TimeoutError."""
        with locked(self._folder / "lock"):
            if not self.alive():
                self._sweep()

    def _sweep(self) -> None:
        """Kills what is left of a driver and of a head of ours, and removes Ray's files. Raises TimeoutError."""
        record = self._read()
        if record is None:
            return
        mark, temporary = record["mark"], Path(record["temporary"])
        end_all(lambda: {*marked(MARK, mark), *writing_below(temporary)})
        shutil.rmtree(temporary, ignore_errors=True)
        self._record.unlink()

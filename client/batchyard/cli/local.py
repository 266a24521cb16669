"""A service on this machine: starting it as a daemon, finding it again, stopping it whole.

The service itself is another program, `python -m batchyard.control`; nothing of it is imported here.
"""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from batchyard.cli import processes
from batchyard.cli.failures import FAILED, USAGE, Failure
from batchyard.cli.processes import Process
from batchyard.client.settings import CONTROL_FILE, read_control_file

START_WITHIN = 60.0
"""Seconds. Its own start takes about two; a busy machine may need many more."""
STOP_WITHIN = 60.0
"""Seconds; workers get a grace period, then Ray is stopped."""
LOG = "control.log"
STANDING_BY = "standing by: "
"""What a service prints that waits for another one to end."""
_COMPLAINT = re.compile(r"^batchyard\.(?:control|serving): (.+)\Z", re.MULTILINE)
"""The last line of a service that knows what is wrong, and says what to do."""
_POLL = 0.05
_NEEDED = {
    "server": ("aiohttp", "alembic", "fsspec", "onnxruntime", "prometheus_client", "ray", "sqlalchemy"),
    "worker": ("onnx", "onnxscript", "safetensors", "sklearn", "torch"),
}


@dataclass(frozen=True)
class Running:
    """A service that runs on this machine."""

    process: Process
    facts: dict[str, Any]
    """Its control.json."""


def find(data_folder: Path) -> Running | None:
    """The service that runs on `data_folder`; None when there is none, or only what a dead one left behind."""
    facts = read_control_file(data_folder)
    process = processes.find(int(facts["pid"])) if facts and str(facts.get("pid")).isdecimal() else None
    return Running(process, facts) if facts and process and _serves(process, data_folder) else None


def start(
    arguments: Sequence[str], data_folder: Path, *, foreground: bool = False, within: float = START_WITHIN
) -> tuple[Running, subprocess.Popen[bytes]]:
    """Starts a service and returns when it answers. Interrupted or too late, it stops what it has started.

    Raises Failure with the last lines of its log when it ends before it answers.
    """
    child, tail = _launch(arguments, data_folder, foreground=foreground)
    try:
        return _until_ready(child, data_folder, tail, within), child
    except BaseException:
        _end(child)
        raise


def stand_by(
    arguments: Sequence[str], data_folder: Path, *, foreground: bool = False, within: float = START_WITHIN
) -> subprocess.Popen[bytes]:
    """Starts a service that waits while another one has the folder, and returns when it is about to: with `foreground`
    at once. Raises Failure when it ends.
    """
    child, tail = _launch([*arguments, "--standby"], data_folder, foreground=foreground)
    deadline = time.monotonic() + within
    try:
        while not foreground and STANDING_BY not in str(tail):
            running = find(data_folder)
            if running and running.process.pid == child.pid:
                break
            _check(child, data_folder, tail, deadline, within)
            time.sleep(_POLL)
    except BaseException:
        _end(child)
        raise
    return child


def _launch(arguments: Sequence[str], data_folder: Path, *, foreground: bool) -> tuple[subprocess.Popen[bytes], object]:
    """The process, and what it prints, where that goes to a log."""
    require_extras()
    log = data_folder / LOG
    command = [sys.executable, "-m", "batchyard.control", "--data-dir", str(data_folder), *arguments]
    with _open_log(log) as output:
        began = output.tell()
        stream = None if foreground else output
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=not foreground
        )
    return child, "" if foreground else _Tail(log, began)


def stop(running: Running, data_folder: Path, *, force: bool = False, within: float = STOP_WITHIN) -> int:
    """Stops a service and everything it started; returns how many processes that were.

    Raises Failure naming what is left after `within` seconds; with `force` those are killed instead.
    """
    seen = processes.family({running.process} | _adopted(running.facts))
    running.process.signal(signal.SIGTERM)
    deadline = time.monotonic() + within
    while any(process.alive for process in seen):
        seen |= processes.family(seen)
        if time.monotonic() > deadline:
            _deal_with_rest({process for process in seen if process.alive}, force)
            break
        time.sleep(_POLL)
    left_behind = read_control_file(data_folder)
    if left_behind and left_behind.get("pid") == running.process.pid:
        (data_folder / CONTROL_FILE).unlink(missing_ok=True)
    return len(seen)


def require_extras() -> None:
    """Raises Failure when what a service needs is not installed."""
    missing = [extra for extra, names in _NEEDED.items() if any(importlib.util.find_spec(n) is None for n in names)]
    if missing:
        extras = ",".join(missing)
        raise Failure(
            f"this installation has the client only; a service needs the extras {extras}",
            f"Run: {sys.executable} -m pip install 'batchyard[{extras}]'",
        )


def _open_log(log: Path) -> BinaryIO:
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return log.open("ab")
    except OSError as error:
        raise Failure(f"{log.parent}: {error.strerror}", "Name a folder that can be written with --data-dir.") from None


class _Tail:
    """The end of a log, from where this run of the service began to write."""

    def __init__(self, path: Path, began: int) -> None:
        self._path, self._began = path, began

    def __str__(self) -> str:
        with self._path.open("rb") as log:
            log.seek(self._began)
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-15:])


def _until_ready(child: subprocess.Popen[bytes], data_folder: Path, tail: object, within: float) -> Running:
    deadline = time.monotonic() + within
    while True:
        running = find(data_folder)
        if running and running.process.pid == child.pid and _answers(running.facts):
            return running
        _check(child, data_folder, tail, deadline, within)
        time.sleep(_POLL)


def _check(child: subprocess.Popen[bytes], data_folder: Path, tail: object, deadline: float, within: float) -> None:
    """Raises Failure when the service has ended, or is too late."""
    code = child.poll()
    if code is not None and (said := _COMPLAINT.search(str(tail))):
        raise Failure(said[1], f"All that it said is in {data_folder / LOG}.", USAGE if code == USAGE else FAILED)
    if code is not None:
        raise StartFailure(f"the service ended with exit code {code} before it answered", data_folder, str(tail))
    if time.monotonic() > deadline:
        raise StartFailure(f"the service did not answer within {within:.0f} s", data_folder, str(tail))


class StartFailure(Failure):
    """A service did not come up; `log` holds its last lines."""

    def __init__(self, what: str, data_folder: Path, log: str) -> None:
        super().__init__(what, f"Its last words are above; all of them are in {data_folder / LOG}.", FAILED)
        self.log = log


def _answers(facts: dict[str, Any]) -> bool:
    """Whether the control plane's health says SERVING. With TLS its word in control.json must do: the authority that
    signed its certificate is not known here.
    """
    from batchyard.client import Client, RpcError

    if facts.get("tls"):
        return True
    with Client(facts["grpc"], token_file=facts.get("token_file"), retry_for=0.0, timeout=2.0) as client:
        try:
            return client.healthy()
        except RpcError:
            return False


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ends a service that is not wanted any more, with everything it has started."""
    process = processes.find(child.pid)
    members = processes.family({process}) if process else set()
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    for member in members:
        member.signal(signal.SIGKILL)


def _serves(process: Process, data_folder: Path) -> bool:
    """Whether this is the control plane of that very folder. A pid is used again sooner or later, and clocks are set:
    only its command line tells for certain.
    """
    words, folder = process.command, process.folder
    if not process.alive or "batchyard.control" not in words or "--data-dir" not in words[:-1] or folder is None:
        return False
    return (folder / words[words.index("--data-dir") + 1]).resolve() == data_folder.resolve()


def _adopted(facts: dict[str, Any]) -> set[Process]:
    """The inference plane, which is nobody's child when it has outlived an earlier control plane."""
    pid = str(facts.get("inference_pid"))
    process = processes.find(int(pid)) if pid.isdecimal() else None
    return {process} if process and "batchyard.serving" in process.command else set()


def _deal_with_rest(rest: set[Process], force: bool) -> None:
    if force:
        for process in rest:
            process.signal(signal.SIGKILL)
        return
    named = "; ".join(
        f"{process.pid} {' '.join(process.command)[:60]}" for process in sorted(rest, key=lambda p: p.pid)
    )
    raise Failure(
        f"still running after SIGTERM: {named}", "Wait and run it again, or kill them: batchyard down --force"
    )

"""Starts control planes and their fork servers by forking one process that has imported everything: 30 ms instead of
2 s of imports each.

`python -m tests.chaos.forge SOCKET PARENT_PID` takes requests on a socket, forks a control plane or a fork server for
each, and answers with its pid. What runs in them is what `python -m` runs, and what they start in turn, supervisors and
workers, is forked by the service's own fork server: only the way into these two differs. A mark that a process would
get in its environment is written over one of the same length, because the kernel shows the memory that a process was
started with.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from batchyard import failpoints
from batchyard.cluster import fork_client, fork_server
from batchyard.cluster.attempts import MARK
from batchyard.cluster.processes import ProcessId, die_with_parent
from batchyard.control import app
from batchyard.training import graph, warm

HISTORY_MARK = "BATCHYARD_CHAOS"
"""The environment variable that everything of one history carries."""
MARKS = {MARK: "0" * 32, HISTORY_MARK: "0" * 32}
CLOCK = "BATCHYARD_CHAOS_CLOCK"
"""The environment variable with the file of the seconds that a control plane's clock is ahead."""
PRELOADED = ("batchyard.control.__main__", "batchyard.training.packaging", "sklearn.datasets")
LONGEST = 1 << 17
"""Bytes of a request; an environment is most of it."""

_requests = ""
"""Where this process's forge takes requests."""


def ask(address: str, kind: str, arguments: Sequence[str], environment: Mapping[str, str], files: Sequence[int]) -> int:
    """Has the forge start a process, with `files` as its standard input, its outputs, and what else it is to keep; the
    arguments name those as if they were numbered from 0. Returns its pid.
    """
    request = {"kind": kind, "arguments": list(arguments), "environment": dict(environment)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(address)
        socket.send_fds(connection, [json.dumps(request).encode()], files)
        return int(connection.recv(LONGEST))


def serve(address: str) -> None:
    """Takes requests until the process that started this one is gone."""
    global _requests
    _requests = address
    _load()
    vars(fork_client)["subprocess"] = SimpleNamespace(
        Popen=ForkServerProcess, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired
    )
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(address)
        server.listen()
        while True:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                _take(connection)


def _load() -> None:
    """Imports everything, also what the first export to ONNX does: a third of what a published model takes."""
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    warm.load()
    for name in PRELOADED:
        importlib.import_module(name)
    graph.export(torch.nn.Linear(2, 2), torch.zeros(2, 2))
    assert fork_server.threads() == 1, "what was imported has started threads: their locks would stay held in a fork"
    gc.collect()
    gc.freeze()  # a collection in a fork would write to, and so copy, every page


def _take(connection: socket.socket) -> None:
    message, files, _, _ = socket.recv_fds(connection, LONGEST, 4)
    try:
        if message:  # else it was killed while it asked
            pid = _fork(lambda: _become(files, **json.loads(message)))
            connection.sendall(str(pid).encode())
    finally:
        for file in files:
            os.close(file)


def _fork(run: Callable[[], int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        code = run()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _become(files: list[int], kind: str, arguments: list[str], environment: dict[str, str]) -> int:
    """What subprocess, or a shell, gives a process; then its main function.

    It ends with the forge at the latest, so that little is left of histories that were broken off.
    """
    die_with_parent(os.getppid())
    os.setsid()
    _take_files(files)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _take_environment(environment)
    if kind == "control":
        from batchyard.control.__main__ import main

        vars(app)["SystemClock"] = lambda: MovedClock(Path(environment[CLOCK]))
        return main(arguments)
    sys.argv = ["fork_server", *arguments]
    fork_server.main()
    return 0


def _take_files(files: list[int]) -> None:
    """Makes the first two 0 and 1, the second also 2, the rest 3 and on, and closes every other file."""
    stdin, output, *rest = files
    wanted = [os.dup(file) for file in (stdin, output, output, *rest)]  # above all that are overwritten
    for number, file in enumerate(wanted):
        os.dup2(file, number)
    os.closerange(len(wanted), max(wanted) + 1)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  numbers, not paths
        if int(name) >= len(wanted):
            with contextlib.suppress(OSError):
                os.close(int(name))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True)  # type: ignore[union-attr]


def _take_environment(environment: Mapping[str, str]) -> None:
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    for name, placeholder in MARKS.items():
        value = environment.get(name, placeholder)
        assert len(value) == len(placeholder), f"{name}={value}"
        place = libc.getenv(name.encode())
        ctypes.memmove(place, value.encode(), len(value))
    kept = {name: os.environ[name] for name in MARKS}
    for name in set(os.environ) - set(environment) - set(kept):
        del os.environ[name]
    os.environ.update({name: value for name, value in environment.items() if name not in MARKS})
    # The dictionary alone: putenv would leave the memory that the kernel shows, and others look for it there.
    os.environ._data.update(  # type: ignore[attr-defined]
        {name.encode(): environment[name].encode() for name in MARKS if name in environment}
    )
    failpoints._armed = failpoints._from_environment()


class MovedClock:
    """The machine's clock, set to another time whenever a file says so: stands in for SystemClock."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def now(self) -> float:
        """Seconds since the epoch."""
        try:
            return time.time() + float(self._file.read_text() or 0.0)
        except FileNotFoundError:
            return time.time()


class ForkServerProcess:
    """Stands in for subprocess.Popen within a control plane, as far as ForkServer uses it."""

    def __init__(self, command: Sequence[str], *, pass_fds: Iterable[int], env: Mapping[str, str], **_: Any) -> None:
        assert "batchyard.cluster.fork_server" in command, command
        theirs, ours = os.pipe()
        try:
            self.pid = ask(_requests, "fork_server", ["--listener", "3"], env, [theirs, 2, *pass_fds])
        finally:
            os.close(theirs)
        self.stdin = os.fdopen(ours, "wb")
        self._process = ProcessId.of(self.pid)

    def poll(self) -> int | None:
        """None while it runs."""
        return None if self._process is not None and self._process.alive() else 0

    def wait(self, timeout: float | None = None) -> int:
        """Returns when it is gone. Raises subprocess.TimeoutExpired."""
        if self._process is not None and not self._process.await_end(60.0 if timeout is None else timeout):
            raise subprocess.TimeoutExpired("fork_server", timeout or 60.0)
        return 0

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.send(signal.SIGKILL)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[2]))
    # As a module, not as __main__: what it forks must find the same names.
    importlib.import_module("tests.chaos.forge").serve(sys.argv[1])

"""Starts the service's processes by forking one that has imported everything: 30 ms instead of 2 s of imports each.

`python -m tests.chaos.forge SOCKET` takes requests on a socket, forks a control plane or a supervisor for each, and
answers with its pid; a supervisor forks its workers by itself. What runs in them is what `python -m` runs: only the way
into it differs. A mark that a process would get in its environment is written over one of the same length, because
the kernel shows the memory that a process was started with.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

from batchyard import failpoints
from batchyard.cluster import local, local_supervisor, worker_main, worker_process
from batchyard.cluster.attempts import MARK
from batchyard.cluster.processes import ProcessId, die_with_parent

HISTORY_MARK = "BATCHYARD_CHAOS"
"""The environment variable that everything of one history carries."""
MARKS = {MARK: "0" * 32, HISTORY_MARK: "0" * 32}
PRELOADED = (
    "batchyard.control.__main__",
    "batchyard.training.worker",
    "sklearn.datasets",
    "torch.onnx",
    "torch.export",
    "onnxscript",
)

_requests = ""
"""Where this process's forge takes requests."""


def ask(address: str, kind: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
    """Has the forge start a process; returns its pid."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        request = {"kind": kind, "arguments": list(arguments), "environment": dict(environment), "log": str(log)}
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as lines:
            return int(lines.readline())


def serve(address: str) -> None:
    """Takes requests until the process that started this one is gone."""
    global _requests
    _requests = address
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    for name in PRELOADED:
        importlib.import_module(name)
    vars(local)["spawn"] = _spawn
    vars(worker_process)["subprocess"] = SimpleNamespace(DEVNULL=None, PIPE=None, Popen=ForkedWorker)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        while True:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as lines, contextlib.suppress(OSError):
                line = lines.readline()
                if not line.endswith(b"\n"):
                    continue  # it was killed while it asked
                request = json.loads(line)
                pid = _fork(lambda request=request: _become(**request))  # type: ignore[misc]
                connection.sendall(f"{pid}\n".encode())


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


def _become(kind: str, arguments: list[str], environment: dict[str, str], log: str) -> int:
    """What `processes.spawn`, or a shell, gives a process; then its main function.

    It ends with the forge at the latest, so that nothing is left of histories that were broken off.
    """
    die_with_parent(os.getppid())
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    _take_files(os.open(os.devnull, os.O_RDONLY), output, output)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _take_environment(environment)
    if kind == "control":
        from batchyard.control.__main__ import main

        return main(arguments)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    sys.argv = ["local_supervisor", *arguments]
    local_supervisor.main()
    return 0


def _take_files(*standard: int, keep: Iterable[int] = ()) -> None:
    """Makes these 0, 1 and 2, and closes every other file but `keep`."""
    for number, file in enumerate(standard):
        os.dup2(file, number)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  numbers, not paths
        if int(name) > 2 and int(name) not in keep:
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


def _spawn(module: str, arguments: Iterable[str], environment: Mapping[str, str], log: Path) -> ProcessId:
    """Stands in for processes.spawn within a control plane."""
    assert module == "batchyard.cluster.local_supervisor", module
    found = ProcessId.of(ask(_requests, "supervisor", list(arguments), environment, log))
    return found or ProcessId(0, "gone before it was seen")


class ForkedWorker:
    """Stands in for subprocess.Popen within a supervisor, as far as WorkerProcess uses it."""

    def __init__(
        self, command: Sequence[str], *, pass_fds: Sequence[int], env: Mapping[str, str], **_options: Any
    ) -> None:
        assert "batchyard.cluster.worker_main" in command, command
        out, theirs_out = os.pipe()
        err, theirs_err = os.pipe()
        arguments = list(command[command.index("batchyard.cluster.worker_main") + 1 :])
        self.pid = _fork(lambda: _work(arguments, theirs_out, theirs_err, pass_fds, env))
        with contextlib.suppress(OSError):  # both sides do it: whoever is first
            os.setpgid(self.pid, self.pid)
        os.close(theirs_out)
        os.close(theirs_err)
        self.stdout: BinaryIO = os.fdopen(out, "rb", buffering=0)
        self.stderr: BinaryIO = os.fdopen(err, "rb", buffering=0)

    def wait(self, timeout: float | None = None) -> int:
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def __enter__(self) -> ForkedWorker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stdout.close()
        self.stderr.close()


def _work(arguments: list[str], out: int, err: int, keep: Sequence[int], environment: Mapping[str, str]) -> int:
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    _take_files(os.open(os.devnull, os.O_RDONLY), out, err, keep=keep)
    _take_environment(environment)
    sys.argv = ["worker_main", *arguments]
    worker_main.main()
    return 0


if __name__ == "__main__":
    die_with_parent(int(sys.argv[2]))
    # As a module, not as __main__: what it forks must find the same names.
    importlib.import_module("tests.chaos.forge").serve(sys.argv[1])

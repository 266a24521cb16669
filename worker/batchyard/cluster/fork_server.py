"""Forks processes that have loaded torch already: `python -m batchyard.cluster.fork_server --listener FD`.

A fork takes milliseconds, where a fresh process takes seconds to import what a worker needs; idle, this costs the
memory of one worker, however many are to come. Every fork serves one attempt and ends with it; none goes back. This
process itself has one thread, computes nothing, touches no CUDA and never sees a job's code. It ends when its standard
input closes, which its owner holds.

A connection is one request, a JSON line {role, environment, arguments}; the answer is {"pid"} of the fork, which begins
when it is told "go" and ends when it is not, or {"refused"} with the reason.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from batchyard.cluster.fork_client import read_line, same_user
from batchyard.cluster.forked_worker import no_input

READ_AT_START = (
    *("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "ATEN_", "DNNL_", "ONEDNN_", "TORCH", "PYTORCH_"),
    *("LD_", "BATCHYARD_FAILPOINTS"),
)
"""Beginnings of the names of variables that libraries read when they are loaded: too late in a fork."""
READ_BY_PYTHON = (
    *("PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS", "PYTHONHASHSEED", "PYTHONMALLOC"),
    *("LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"),
)
PATIENCE_S = 5.0
"""For a request that has begun, and for the word to begin."""

Role = Callable[[socket.socket, Mapping[str, Any]], None]
"""What a fork does, given the connection and the request's arguments; when it returns, the fork ends."""
ROLES = {
    "supervisor": "batchyard.cluster.local_supervisor:supervise_forked",
    "worker": "batchyard.cluster.held_worker:hold",
}


class ForkServer:
    """Takes requests until its owner is gone."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._roles = {name: _load(role) for name, role in ROLES.items()}
        self._born_with = fixed(os.environ)

    def run(self) -> None:
        """Returns when the owner is gone."""
        with selectors.DefaultSelector() as selector:
            self._selector = selector
            selector.register(0, selectors.EVENT_READ)
            selector.register(self._listener, selectors.EVENT_READ)
            while True:
                ready = [key.fd for key, _ in selector.select()]
                if 0 in ready:
                    return
                connection, _ = self._listener.accept()
                with connection:
                    self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(PATIENCE_S)
            if not same_user(connection):
                return
            request = json.loads(read_line(connection) or "null")
            if request is None:
                return
            refusal = self._refusal(request["environment"])
            if refusal is None and os.fork() == 0:
                self._become(connection, request)
            if refusal is not None:
                connection.sendall(json.dumps({"refused": refusal}).encode() + b"\n")
        except OSError as error:
            print(f"a request failed: {error}", file=sys.stderr)  # noqa: T201

    def _refusal(self, environment: Mapping[str, str]) -> str | None:
        """Why a fork of this process is not what a fresh one with `environment` would be."""
        wanted = fixed(environment)
        for name in sorted(wanted.keys() | self._born_with):
            was, now = self._born_with.get(name, "not set"), wanted.get(name, "not set")
            if was != now:
                return f"{name} was {was} when the fork server started and is now {now}"
        return None

    def _become(self, connection: socket.socket, request: dict[str, Any]) -> None:
        """The fork's life; never returns."""
        try:
            self._listener.close()
            self._selector.close()
            no_input()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # as supervisors and workers are born
            self._roles[request["role"]](connection, request)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)


def fixed(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that is too late to change in a process that has loaded its libraries."""
    return {
        name: value for name, value in environment.items() if name.startswith(READ_AT_START) or name in READ_BY_PYTHON
    }


def _load(role: str) -> Role:
    module, _, name = role.partition(":")
    function: Role = getattr(importlib.import_module(module), name)
    return function


def threads() -> int:
    """Threads of this process, whoever started them."""
    return len(list(Path("/proc/self/task").iterdir()))


def main() -> None:
    """Loads, then serves. Requests that came meanwhile have waited."""
    from batchyard.training import warm

    with socket.socket(fileno=int(sys.argv[2])) as listener:
        listener.set_inheritable(False)
        warm.load()
        if threads() > 1:
            sys.exit(f"a library has started {threads() - 1} threads while it was imported: workers cannot be forked")
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel removes what nobody waits for
        gc.collect()
        gc.freeze()  # a collection in a fork would write to, and so copy, every page
        ForkServer(listener).run()


if __name__ == "__main__":
    main()

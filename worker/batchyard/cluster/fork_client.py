"""Asking a fork server (fork_server.py) for a process, and how such a process offers itself. No torch."""

from __future__ import annotations

import json
import os
import secrets
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from batchyard.cluster.attempts import MARK
from batchyard.cluster.forked_worker import NO_MARK
from batchyard.cluster.processes import ProcessId

ANSWER_S = 30.0
"""How long a server may take to answer: it may be loading still, as long as a fresh process would."""
COMMAND = (sys.executable, "-P", "-u", "-m", "batchyard.cluster.fork_server", "--listener")
END_S = 5.0
CHUNK = 1 << 16
BACKLOG = 64
"""Requests that may wait."""


class ColdError(Exception):
    """There is no fork to be had; says why. A fresh process will do, only later."""


class ForkServer:
    """One fork server, which ends when its owner does. Thread-safe. What it has to say goes to this process's standard
    error.
    """

    def __init__(self) -> None:
        self.address = f"@batchyard-fork-server-{secrets.token_hex(16)}"
        """Its socket's name, in the kernel and not in a folder: nothing is left when it is killed."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process that runs, or ran last; None before the first."""
        return None if self._process is None else self._process.pid

    def ensure(self) -> None:
        """Starts it unless it runs. Does not wait until it has loaded everything; whoever asks it does."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._end()
                self._start()

    def _start(self) -> None:
        with listen(self.address) as listener:  # requests may come at once, and wait
            self._spawn(listener)

    def _spawn(self, listener: socket.socket) -> None:
        self._process = subprocess.Popen(
            [*COMMAND, str(listener.fileno())],
            pass_fds=(listener.fileno(),),
            stdin=subprocess.PIPE,  # it ends when this closes, which the kernel does when this process ends
            stdout=2,
            start_new_session=True,  # Ctrl-C is for us; we end it
            env={**os.environ, "OMP_NUM_THREADS": "1", MARK: NO_MARK},
        )

    def close(self) -> None:
        """Ends it, and returns when it is gone. What it has forked goes on."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


class Offer:
    """A process that has been forked for us and waits for the word. Without it, it ends."""

    def __init__(self, connection: socket.socket, process: ProcessId) -> None:
        self._connection = connection
        self.process = process

    def decline(self) -> None:
        """Leaves it; it ends."""
        self._connection.close()

    def accept(self) -> socket.socket:
        """Has it begin, and returns the connection to it. Raises ColdError when it is gone."""
        try:
            self._connection.sendall(b"go\n")
        except OSError as error:
            self._connection.close()
            raise ColdError(f"the forked process ended at once: {error}") from error
        self._connection.settimeout(None)
        return self._connection


def ask(address: str, role: str, environment: Mapping[str, str], **arguments: Any) -> Offer:
    """Has the server at `address` fork a process for `role`. Raises ColdError."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(ANSWER_S)
        connection.connect(in_kernel(address))
        if not same_user(connection):
            raise PermissionError("another user's process answers in its place")
        order = {"role": role, "environment": dict(environment), "arguments": arguments}
        connection.sendall(json.dumps(order).encode() + b"\n")
        answer = json.loads(read_line(connection) or "{}")
    except (OSError, ValueError) as error:
        connection.close()
        raise ColdError(f"the fork server does not answer: {error}") from error
    process = ProcessId.of(answer["pid"]) if "pid" in answer else None
    if process is None:
        connection.close()
        raise ColdError(answer.get("refused", "the fork server ended; the service's log says why"))
    return Offer(connection, process)


def offer(connection: socket.socket) -> None:
    """Tells who asked that this fork is there, and waits for the word to begin; without it, ends this process."""
    try:
        connection.sendall(json.dumps({"pid": os.getpid()}).encode() + b"\n")
        word = read_line(connection)
    except OSError:
        word = b""
    if word != b"go\n":
        os._exit(0)
    connection.settimeout(None)


def listen(address: str) -> socket.socket:
    """A socket with that name."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(in_kernel(address))
    listener.listen(BACKLOG)
    return listener


def in_kernel(address: str) -> str:
    """A name without a file begins with a null, which an argument or a file of JSON should not have."""
    return "\0" + address.removeprefix("@")


def same_user(connection: socket.socket) -> bool:
    """Whether the other end belongs to this process's user: such a name has no permissions that would see to it."""
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return bool(uid == os.geteuid())


def read_line(connection: socket.socket) -> bytes:
    """One line, and nothing of what is behind it; empty at the end of the stream."""
    line = b""
    while not line.endswith(b"\n"):
        there = connection.recv(CHUNK, socket.MSG_PEEK)
        if not there:
            return b""
        line += connection.recv(there.find(b"\n") + 1 or len(there))
    return line

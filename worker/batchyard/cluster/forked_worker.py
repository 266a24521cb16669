"""A worker process that is forked from one that has loaded torch, in place of a fresh Python that imports it.

Only a process with a single thread may fork a worker: locks that other threads hold would stay held in the fork.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NoReturn, Self

from batchyard.cluster.attempts import MARK

FORKED = "(forked)"
"""The last word of a fork's command line."""
NO_MARK = "0" * 32
"""What stands in a fork server's environment where an attempt's mark is to be."""


Close = Callable[[], object]
"""Closes something of the parent's that a fork must not keep open."""


class ForkedWorker:
    """What subprocess.Popen would be, with the channel's end beside it. Its parent is this process's main thread, which
    the worker does not outlive.
    """

    def __init__(self, pid: int, stdout: BinaryIO, stderr: BinaryIO, channel: socket.socket) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self.channel = channel

    def wait(self) -> int:
        """Its exit code, as subprocess gives it: negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        """Closes the pipes and the channel."""
        for end in (self.stdout, self.stderr, self.channel):
            end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stdout.close()
        self.stderr.close()


def fork_worker(serve: Callable[[socket.socket, int], None], others: Iterable[Close] = ()) -> ForkedWorker:
    """Forks a process that calls `serve` with its end of the channel and the pid of its parent, in a process group of
    its own, with no input and both outputs piped. `others` close what else of this process it must not keep open.
    """
    ours, theirs = socket.socketpair()
    outputs = [os.pipe(), os.pipe()]
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(lambda: serve(theirs, parent), [ours.close, *others], outputs)
    with suppress(OSError):  # it may have done so itself, or be gone
        os.setpgid(pid, pid)
    theirs.close()
    for _, write in outputs:
        os.close(write)
    stdout, stderr = (os.fdopen(read, "rb", buffering=0) for read, _ in outputs)
    return ForkedWorker(pid, stdout, stderr, ours)


def _become(serve: Callable[[], None], others: Iterable[Close], outputs: list[tuple[int, int]]) -> NoReturn:
    """The fork's life. Never returns: what lies below on the stack is the parent's business."""
    try:
        os.setpgid(0, 0)
        for close in others:
            close()
        for number, (read, write) in enumerate(outputs, start=1):
            os.dup2(write, number)
            os.close(read)
            os.close(write)
        no_input()
        serve()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def no_input() -> None:
    """Reads nothing from here on."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def write_to(log: Path) -> None:
    """Appends both outputs to a file from here on."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def adopt(environment: Mapping[str, str]) -> None:
    """Makes `environment` this process's own, and its attempt's mark one that others find in /proc."""
    show_mark(environment[MARK])
    os.environ.clear()
    os.environ.update(environment)


def show_command(module: str) -> None:
    """Makes ps and /proc show a fork as what it is, in place of the fork server that it comes from."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[45]), int(fields[46])
    words = [sys.executable, "-m", f"batchyard.cluster.{module}", FORKED]
    line = "\0".join(words).encode()[: end - begin - 1]
    ctypes.memmove(begin, line.ljust(end - begin, b"\0"), end - begin)


def show_mark(mark: str) -> None:
    """Writes the mark over the one that this process was born with, in the very memory that /proc/PID/environ shows;
    setting an environment variable does not reach it. Raises ValueError for a mark of another length.
    """
    born = os.environb.get(MARK.encode())
    if born is None or len(born) != len(mark):
        raise ValueError(
            f"{MARK}: {mark!r} given; expected {len(born or b'')} characters, as this process was born with"
        )
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    ctypes.memmove(getenv(MARK.encode()), mark.encode(), len(mark))

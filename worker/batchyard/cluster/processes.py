"""Processes of this machine, named so that a reused pid is never mistaken for them. Linux only: reads /proc.

A ProcessId is a pid together with the moment it was started. Everything that belongs to one attempt, or to one Ray
head, carries a mark in its environment, which children inherit: that is how leftovers are found after a crash.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
PR_SET_PDEATHSIG = 1
PF_EXITING = 0x4
"""A flag in /proc/PID/stat."""
DYING_S = 1.0
"""Longer than the kernel takes to end a process; bounds the wait for one of somebody else's that hangs in there."""


@dataclass(frozen=True)
class ProcessId:
    """One process, for ever: a later process with the same pid is another one."""

    pid: int
    started: str
    """Boot id and start time in clock ticks since boot."""

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process that has `pid` now; None where there is none, or only a zombie."""
        started = _started(pid)
        return None if started is None else cls(pid, started)

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return _started(self.pid) == self.started

    def send(self, signum: int) -> bool:
        """Signals it, or does nothing and returns False when it is gone. A reused pid is never hit."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            # Looked at after the handle is open: from here on the handle means this process and no later one.
            if not self.alive():
                return False
            signal.pidfd_send_signal(handle, signum)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True

    def await_end(self, timeout_s: float) -> bool:
        """Waits until it is gone; False when it still runs after `timeout_s`."""
        return wait_until(lambda: not self.alive(), timeout_s)


def _started(pid: int) -> str | None:
    state, started = _stat(pid)
    return None if state in "ZX" else started


def is_stopped(pid: int) -> bool:
    """Whether a signal such as SIGSTOP has stopped the process."""
    return _stat(pid)[0] == "T"


def _stat(pid: int) -> tuple[str, str]:
    """State and start of the process; X where there is none."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "X", ""
    fields = stat[stat.rindex(")") + 2 :].split()
    return fields[0], f"{_boot_id()}/{fields[19]}"


@functools.cache
def _boot_id() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Asks every 10 ms until `condition` holds; False when it does not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def marked(name: str, value: str) -> list[ProcessId]:
    """Every running process of ours whose environment has name=value."""
    entry = f"{name}={value}".encode()
    return _search(lambda folder: entry in (folder / "environ").read_bytes().split(b"\0"))


def writing_below(folder: Path) -> list[ProcessId]:
    """Every running process of ours that has a file below `folder` open for writing. Finds processes that overwrote
    their environment by setting a long title, and spares those that only look at a log.
    """
    prefix = f"{folder}/"

    def writes(process: Path) -> bool:
        return any(_target(fd).startswith(prefix) and fd.lstat().st_mode & 0o200 for fd in (process / "fd").iterdir())

    return _search(writes)


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def _search(matches: Callable[[Path], bool]) -> list[ProcessId]:
    found = []
    for folder in PROC.iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        try:
            process = ProcessId.of(int(folder.name)) if matches(folder) else None
        except OSError:  # gone meanwhile, or somebody else's
            continue
        if process is not None:
            found.append(process)
    return found


def end_all(find: Callable[[], Iterable[ProcessId]], timeout_s: float = 10.0) -> None:
    """Kills what `find` finds until it finds nothing, and waits for what was dying already. Raises TimeoutError naming
    what would not die.
    """

    def none_left() -> bool:
        left = list(find())
        for process in left:
            process.send(signal.SIGKILL)
        return not left

    if not wait_until(none_left, timeout_s):
        raise TimeoutError(f"processes {sorted(p.pid for p in find())} are still there {timeout_s:g} s after SIGKILL")
    wait_until(lambda: not _dying(), DYING_S)


def _dying() -> bool:
    """Whether a process of ours is being torn down. It has lost its environment and so its mark, but not its memory
    yet, which takes a while where it has much.
    """
    for folder in PROC.iterdir():
        if not folder.name.isdecimal():
            continue
        with contextlib.suppress(OSError):  # gone meanwhile
            stat = (folder / "stat").read_text()
            fields = stat[stat.rindex(")") + 2 :].split()
            if int(fields[6]) & PF_EXITING and fields[0] not in "ZX" and folder.stat().st_uid == os.geteuid():
                return True
    return False


def spawn(module: str, arguments: Iterable[str], environment: Mapping[str, str], log: Path) -> ProcessId:
    """Starts `python -m module arguments` in a session of its own, so that it outlives this process; both outputs are
    appended to `log`. It begins with SIGTERM blocked, so that none is lost, or deadly, before it is ready for it.
    """
    command = [sys.executable, "-P", "-m", module, *arguments]
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        pid = os.posix_spawn(
            sys.executable,
            command,
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ],
            setsid=True,
            setsigmask=[signal.SIGTERM],
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
        )
    finally:
        os.close(output)
    # Nobody reaps it but `reap`, so that even one that has ended already is still there to be named.
    return ProcessId(pid, _stat(pid)[1])


def reap(process: ProcessId) -> None:
    """Removes the zombie of `process` where it is a child of this process; else does nothing."""
    if _stat(process.pid) == ("Z", process.started):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when the thread that started it ends; exits at once if it has ended already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(1)

"""Which processes belong to a service, and whether they still live. Linux: read from /proc."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One process; its start tells it from a later one with the same pid."""

    pid: int
    start_ticks: int
    """Clock ticks between boot and start."""

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        found = _read(self.pid)
        return found is not None and found.process == self and found.state not in "ZX"

    @property
    def command(self) -> list[str]:
        """Its command line; empty once it is gone."""
        try:
            words = (_PROC / str(self.pid) / "cmdline").read_bytes()
        except OSError:
            return []
        return words.decode(errors="surrogateescape").rstrip("\0").split("\0")

    @property
    def module(self) -> str:
        """Which part of Batchyard it runs; empty for another program."""
        return next((word for word in self.command if word.startswith("batchyard.")), "")

    @property
    def folder(self) -> Path | None:
        """Its working folder; None once it is gone, or for one that is not ours to look at."""
        try:
            return (_PROC / str(self.pid) / "cwd").readlink()
        except OSError:
            return None

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, unless it is gone."""
        if self.alive:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


@dataclass(frozen=True)
class _Entry:
    process: Process
    state: str
    parent: int
    session: int


def find(pid: int) -> Process | None:
    """The process that has this pid now."""
    entry = _read(pid)
    return entry.process if entry else None


def family(roots: set[Process]) -> set[Process]:
    """Those of `roots` that live, everything that descends from them, and the sessions that any of those lead.

    An orphan loses its parent, not its session.
    """
    table = [entry for path in _PROC.iterdir() if path.name.isdecimal() and (entry := _read(int(path.name)))]
    ours = {entry.process.pid for entry in table if entry.process in roots}
    while found := {e.process.pid for e in table if e.parent in ours or e.session in ours} - ours:
        ours |= found
    return {entry.process for entry in table if entry.process.pid in ours}


def naming(folder: Path) -> list[Process]:
    """Batchyard's processes whose command line names something in `folder`: inference planes, Ray's driver; by pid."""
    inside = f"{folder.resolve()}/"
    everyone = (find(int(path.name)) for path in _PROC.iterdir() if path.name.isdecimal())
    found = [each for each in everyone if each and each.module and any(w.startswith(inside) for w in each.command)]
    return sorted(found, key=lambda each: each.pid)


def named(found: Iterable[Process]) -> str:
    """Pids and what runs in them, for people."""
    return ", ".join(f"{process.pid} ({process.module})" for process in found)


def _read(pid: int) -> _Entry | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # pid (command, which may hold anything) state ppid pgrp session ... starttime is the 22nd field: proc(5)
    fields = text.rpartition(")")[2].split()
    return _Entry(Process(pid, int(fields[19])), fields[0], int(fields[1]), int(fields[3]))

"""An attempt's events as a file: one JSON object a line, numbered by line, written by one process, read by many."""

from __future__ import annotations

import errno
import json
import os
import threading
from array import array
from pathlib import Path
from typing import Any

from batchyard.cluster.executor import Batch
from batchyard.failpoints import failpoint
from batchyard.training.events import Ended, Event, from_json

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a write for which there is no room, now."""
BATCH_BYTES = 1 << 20
"""A read stops after about this much; ask again with the new cursor."""


class EventLog:
    """The writing end. Whole lines reach the operating system one by one, so that a killed writer loses nothing that it
    wrote. Continues an existing file, less a last line that was cut short. Thread-safe.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        size = os.fstat(self._file).st_size
        whole = _end_of_last_line(self._file, size)
        if whole != size:
            os.ftruncate(self._file, whole)

    def append(self, event: Event) -> None:
        """Adds one event."""
        self.append_json(event.to_json())

    def append_json(self, event: dict[str, Any]) -> None:
        """Adds one event that Event.to_json has made, whole or not at all. Raises OSError."""
        line = json.dumps(event).encode() + b"\n"
        failpoint("event.before_append")
        with self._lock:
            written = 0
            try:
                while written < len(line):  # a file system may take a part only
                    written += os.write(self._file, line[written:])
            except OSError:
                os.ftruncate(self._file, os.fstat(self._file).st_size - written)  # what follows begins a line
                raise
        failpoint("event.after_append")

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)


def _end_of_last_line(file: int, size: int) -> int:
    while size > 0:
        start = max(0, size - BATCH_BYTES)
        newline = os.pread(file, size - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        size = start
    return 0


class EventReader:
    """The reading end. Remembers where each line begins, so that a read costs only what it returns. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._ends = array("Q", [0])
        """Where line i begins; the last item is the end of the last whole line."""

    def read(self, cursor: int) -> Batch:
        """Events after `cursor`, about BATCH_BYTES at most. A cursor beyond the end of an ended attempt gets the Ended
        event once more: whoever asks has counted events that were lost with the machine.
        """
        if cursor < 0:
            raise ValueError(f"cursor: {cursor} given; expected 0 or the cursor of an earlier batch")
        lines = self.lines(cursor)
        if not lines and cursor > self.count() and self.ended():
            cursor = self.count() - 1
            lines = self.lines(cursor)
        return Batch(cursor=cursor + len(lines), events=tuple(from_json(json.loads(line)) for line in lines))

    def lines(self, cursor: int) -> list[bytes]:
        """Lines after `cursor`, about BATCH_BYTES at most."""
        with self._lock:
            self._scan()
            last = cursor
            while last < len(self._ends) - 1 and (
                last == cursor or self._ends[last + 1] - self._ends[cursor] < BATCH_BYTES
            ):
                last += 1
            return [] if last == cursor else self._between(self._ends[cursor], self._ends[last]).splitlines()

    def count(self) -> int:
        """Whole lines in the file."""
        with self._lock:
            self._scan()
            return len(self._ends) - 1

    def ended(self) -> bool:
        """Whether the last event is Ended."""
        lines = self.lines(max(0, self.count() - 1))
        return bool(lines) and json.loads(lines[-1])["kind"] == Ended.kind

    def _scan(self) -> None:
        """Takes notice of lines that were written meanwhile."""
        start = self._ends[-1]
        size = self._path.stat().st_size if self._path.exists() else 0
        while start < size:
            chunk = self._between(start, min(size, start + BATCH_BYTES))
            at = chunk.find(b"\n")
            while at >= 0:
                self._ends.append(start + at + 1)
                at = chunk.find(b"\n", at + 1)
            start += len(chunk)

    def _between(self, start: int, end: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(start)
            return file.read(end - start)

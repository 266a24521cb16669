"""The record of a history: everything that was asked, answered, seen and broken, in order, as JSON lines."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class Record:
    """Thread-safe. Kept in memory for the checker and in a file for people."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("w")
        self._lock = threading.Lock()
        self.entries: list[Entry] = []

    def add(self, kind: str, **said: Any) -> None:
        """One thing that has happened just now."""
        with self._lock:
            entry = {"time": time.time(), "kind": kind, **said}
            self.entries.append(entry)
            self._file.write(json.dumps(entry) + "\n")

    def close(self) -> None:
        self._file.close()

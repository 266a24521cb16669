"""A terminal that a test types into and reads from: tmux, on a server of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 60
SIZE = ("COLUMNS", "LINES")
"""What pytest-xdist sets: programs would believe it more than the window."""


class Terminal:
    """One window with a shell."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    def type(self, line: str) -> None:
        """Types a line and Return."""
        self.tmux("send-keys", "-l", line)
        self.tmux("send-keys", "Enter")

    def press(self, *keys: str) -> None:
        """Keys as tmux names them, for example C-c; other words are typed."""
        self.tmux("send-keys", *keys)

    def screen(self) -> str:
        """What a person sees, without blanks at the ends of lines."""
        return self.tmux("capture-pane", "-p").rstrip("\n")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The pattern's match on the screen, as soon as there is one."""
        deadline = time.monotonic() + SECONDS
        while not (found := re.search(pattern, self.screen())):
            assert time.monotonic() < deadline, f"{pattern!r} is not on the screen:\n{self.screen()}"
            time.sleep(0.03)
        return found

    def tmux(self, *arguments: str) -> str:
        """What tmux says."""
        command = ["tmux", "-S", self._socket, "-f", "/dev/null", "-u", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS).stdout


@contextmanager
def terminal(folder: Path, *, columns: int = 130, lines: int = 30) -> Iterator[Terminal]:
    """A shell in `folder` that finds the `batchyard` command of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("BATCHYARD_", *SIZE))}
    shell = ["env", "-i", *(f"{name}={value}" for name, value in {**keep, "PATH": path, "PS1": "$ "}.items())]
    with tempfile.TemporaryDirectory(prefix="tmux-") as short:  # a socket's path has at most 107 bytes
        window = Terminal(f"{short}/socket")
        size = ("-x", str(columns), "-y", str(lines))
        window.tmux("new-session", "-d", *size, "-c", str(folder), *shell, "TERM=screen-256color", "sh")
        try:
            yield window
        finally:
            window.tmux("kill-server")

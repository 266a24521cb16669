"""A process and word of its end, whether it is our child or was one of a control plane that died (Linux pidfd)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path


class WatchedProcess:
    """Belongs to one event loop."""

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        """Raises OSError when there is no such process."""
        self.pid = pid
        self._child = child
        self._pidfd = os.pidfd_open(pid)
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_end)

    @classmethod
    def start(cls, command: Sequence[str], log: Path) -> WatchedProcess:
        """Starts a child that prints into `log` and hears nothing of a Ctrl-C in our terminal."""
        with log.open("ab") as output:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0)
        return cls(child.pid, child)

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._ended.is_set()

    @property
    def exit_code(self) -> int | None:
        """As of subprocess.Popen; None while it runs, or when it is not our child."""
        return None if self._child is None else self._child.returncode

    async def wait(self) -> None:
        """Returns when it is gone."""
        await self._ended.wait()

    async def stop(self, grace: float) -> None:
        """SIGTERM, after `grace` seconds SIGKILL; returns when it is gone."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await self.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self.wait()

    def _signal(self, number: int) -> None:
        if not self.ended:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def forget(self) -> None:
        """Watches it no more."""
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)

    def _on_end(self) -> None:
        self.forget()
        if self._child is not None:
            self._child.wait()  # it is dead: this only reaps it
        self._ended.set()


def command_of(pid: int) -> list[str]:
    """The command line of a process; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []

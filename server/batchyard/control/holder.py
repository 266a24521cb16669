"""Who a control plane is, so that the next one can say who is in its way, and tell whether that one still lives."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime

from batchyard.cluster.processes import ProcessId


@dataclass(frozen=True, kw_only=True)
class Holder:
    """One control plane."""

    host: str
    pid: int
    process: str
    """Boot id and start of the process: a later one with the same pid has another."""
    since: float
    """Seconds since the epoch, for people: nothing is decided by it."""

    @classmethod
    def this_process(cls, now: float) -> Holder:
        """The process that runs this."""
        own = ProcessId.of(os.getpid())
        assert own is not None
        return cls(host=socket.gethostname(), pid=own.pid, process=own.started, since=now)

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"process {self.pid} on {self.host}, since {since}"

    @property
    def boot(self) -> str:
        """Names one run of one machine's kernel."""
        return self.process.partition("/")[0]

    def alive(self) -> bool:
        """Whether its process runs on this machine; one of another machine, or of another container, does not."""
        return ProcessId(self.pid, self.process).alive()

"""Supervises one attempt on plain subprocesses: `python -m batchyard.cluster.local_supervisor ATTEMPT GPUS SAID` (two
folders, and a line for the job's log), or the same in a fork of the fork server.

It has a session of its own and needs nobody: the control plane may die and come back. SIGTERM asks it to pause where
the attempt's folder says so, and else to cancel.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from batchyard.cluster.attempts import AttemptFolder
from batchyard.cluster.event_log import EventLog
from batchyard.cluster.fork_client import offer
from batchyard.cluster.forked_worker import adopt, show_command, write_to
from batchyard.cluster.gpus import GpuLease
from batchyard.cluster.local_crew import LocalCrew
from batchyard.cluster.processes import ProcessId
from batchyard.cluster.supervision import RefusedError, Supervision
from batchyard.failpoints import failpoint
from batchyard.training.events import LogLine


def obey_sigterm(supervision: Supervision, folder: AttemptFolder) -> None:
    """Waits for SIGTERM, which this process was started with blocked, in a thread of its own."""

    def wait() -> None:
        while True:
            signal.sigwait({signal.SIGTERM})
            if folder.paused.exists() and not folder.cancelled.exists():
                supervision.pause()
            else:
                supervision.cancel()

    threading.Thread(target=wait, name="sigterm", daemon=True).start()


def supervise(folder: AttemptFolder, gpu_folder: Path, *, forked: bool, said: str = "") -> None:
    """Supervises an attempt to its end, and ends this process. `said` is a line for the job's log."""
    orders = folder.orders()
    failpoint("supervisor.before_crew")
    crew = LocalCrew(orders, GpuLease(gpu_folder))
    if forked:
        with suppress(RefusedError):  # the supervision finds the same, and says so
            crew.fork()
    log = EventLog(folder.events)
    if said:
        log.append(LogLine(level="INFO", text=said))
    supervision = Supervision(
        job=orders.attempt.id.job,
        world_size=orders.world_size,
        crew=crew,
        log=log,
        grace_s=orders.grace_s,
        hung_after_s=orders.hung_after_s,
    )
    obey_sigterm(supervision, folder)
    if folder.cancelled.exists():
        supervision.cancel()
    elif folder.paused.exists():
        supervision.pause()
    supervision.run()
    os._exit(0)


def supervise_forked(connection: socket.socket, request: Mapping[str, Any]) -> None:
    """The same in a fork of the fork server: as `spawn` would start it, but for what is loaded."""
    arguments = request["arguments"]
    folder = AttemptFolder(Path(arguments["folder"]))
    os.setsid()
    show_command("local_supervisor")
    adopt(request["environment"])
    write_to(folder.log)
    offer(connection)
    connection.close()
    note_itself(folder)
    supervise(folder, Path(arguments["gpus"]), forked=True)


def note_itself(folder: AttemptFolder) -> None:
    """As the control plane does that started this process, if it lives long enough."""
    itself = ProcessId.of(os.getpid())
    assert itself is not None
    folder.set_supervisor(itself)


def main() -> None:
    """Supervises the attempt whose folder is given."""
    path, gpu_folder, said = sys.argv[1:]
    folder = AttemptFolder(Path(path))
    note_itself(folder)
    supervise(folder, Path(gpu_folder), forked=False, said=said)


if __name__ == "__main__":
    main()

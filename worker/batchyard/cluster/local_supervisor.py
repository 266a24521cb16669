"""Supervises one attempt on plain subprocesses: `python -m batchyard.cluster.local_supervisor ATTEMPT GPUS` (folders).

It has a session of its own and needs nobody: the control plane may die and come back. SIGTERM asks it to pause where
the attempt's folder says so, and else to cancel.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from batchyard.cluster.attempts import MARK, AttemptFolder, Orders
from batchyard.cluster.channel import Message
from batchyard.cluster.event_log import EventLog
from batchyard.cluster.gpus import GpuLease
from batchyard.cluster.processes import ProcessId, end_all, marked
from batchyard.cluster.supervision import Deliver, RefusedError, Supervision
from batchyard.cluster.verdict import infrastructure
from batchyard.cluster.worker_process import WorkerProcess, place, worker_environment
from batchyard.failpoints import failpoint


class LocalCrew:
    """The workers as children of this process, all on the loopback interface."""

    def __init__(self, orders: Orders, gpu_folder: Path) -> None:
        self._orders = orders
        self._gpus = GpuLease(gpu_folder)
        self._workers: list[WorkerProcess] = []

    def start(self, deliver: Deliver, cancelled: Callable[[], bool]) -> None:
        """Starts every worker at once."""
        orders = self._orders
        gpus = self._gpus.take(orders.world_size * orders.gpus_per_worker)
        if gpus is None:
            raise RefusedError(infrastructure("all GPUs of this machine are in use", orders.attempt.id.job))
        for rank in range(orders.world_size):
            environment = worker_environment(orders, os.environ)
            environment["CUDA_VISIBLE_DEVICES"] = gpus[rank] if gpus else ""
            worker = WorkerProcess(rank=rank, environment=environment, deliver=partial(deliver, rank))
            worker.start()
            worker.tell({"kind": "prepare", "entry": orders.entry})
            worker.tell({"kind": "run", **asdict(place(orders, rank, host="127.0.0.1", interface="lo"))})
            self._workers.append(worker)

    def tell(self, rank: int, message: Message) -> None:
        """Passes a message on."""
        self._workers[rank].tell(message)

    def dump_stacks(self, rank: int) -> None:
        """Passes the wish on."""
        self._workers[rank].dump_stacks()

    def kill(self) -> None:
        """Kills every worker."""
        for worker in self._workers:
            worker.kill()

    def end(self) -> None:
        """Ends what is left and gives the GPUs back."""
        # Workers are gone already, unless the supervision itself failed; what they started may not be.
        self.kill()
        end_all(lambda: marked(MARK, self._orders.mark))
        self._gpus.free()


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


def note_itself(folder: AttemptFolder) -> None:
    """As the control plane does that started this process, if it lives long enough."""
    itself = ProcessId.of(os.getpid())
    assert itself is not None
    folder.set_supervisor(itself)


def main() -> None:
    """Supervises the attempt whose folder is given."""
    folder = AttemptFolder(Path(sys.argv[1]))
    note_itself(folder)
    orders = folder.orders()
    supervision = Supervision(
        job=orders.attempt.id.job,
        world_size=orders.world_size,
        crew=LocalCrew(orders, Path(sys.argv[2])),
        log=EventLog(folder.events),
        grace_s=orders.grace_s,
        hung_after_s=orders.hung_after_s,
    )
    obey_sigterm(supervision, folder)
    if folder.cancelled.exists():
        supervision.cancel()
    elif folder.paused.exists():
        supervision.pause()
    failpoint("supervisor.before_crew")
    supervision.run()
    os._exit(0)


if __name__ == "__main__":
    main()

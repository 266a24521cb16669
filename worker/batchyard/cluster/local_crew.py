"""The workers of an attempt as processes of one machine, held by the process that supervises it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from batchyard.cluster.attempts import MARK, Orders
from batchyard.cluster.channel import Message
from batchyard.cluster.forked_worker import ForkedWorker, fork_worker
from batchyard.cluster.gpus import GpuLease
from batchyard.cluster.held_worker import Worker
from batchyard.cluster.processes import end_all, marked
from batchyard.cluster.supervision import Deliver, RefusedError
from batchyard.cluster.verdict import infrastructure
from batchyard.cluster.worker_main import serve_forked
from batchyard.cluster.worker_process import WorkerProcess, place, worker_environment


class LocalCrew:
    """The workers as children of this process, all on the loopback interface."""

    def __init__(self, orders: Orders, lease: GpuLease) -> None:
        self._orders = orders
        self._lease = lease
        self._gpus: list[str] | None = None
        self._forked: list[ForkedWorker] = []
        self._workers: list[Worker] = []

    def fork(self) -> None:
        """Forks the workers. For a process that has loaded what they need, and has one thread still. Raises
        RefusedError.
        """
        self._take_gpus()
        for rank in range(self._orders.world_size):
            serve = partial(serve_forked, environment=self._environment(rank))
            self._forked.append(fork_worker(serve, [*(other.close for other in self._forked), self._lease.free]))

    def _take_gpus(self) -> None:
        if self._gpus is None:
            self._gpus = self._lease.take(self._orders.world_size * self._orders.gpus_per_worker)
        if self._gpus is None:
            raise RefusedError(infrastructure("all GPUs of this machine are in use", self._orders.attempt.id.job))

    def _environment(self, rank: int) -> dict[str, str]:
        gpu = self._gpus[rank] if self._gpus else ""
        return {**worker_environment(self._orders, os.environ), "CUDA_VISIBLE_DEVICES": gpu}

    def _worker(self, rank: int, deliver: Callable[[Message], None]) -> Worker:
        forked = self._forked[rank] if self._forked else None
        return WorkerProcess(rank=rank, deliver=deliver, environment=self._environment(rank), forked=forked)

    def start(self, deliver: Deliver, cancelled: Callable[[], bool]) -> None:
        """Starts every worker at once."""
        orders = self._orders
        self._take_gpus()
        for rank in range(orders.world_size):
            worker = self._worker(rank, partial(deliver, rank))
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
        self._lease.free()

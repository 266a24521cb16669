"""The workers of an attempt on Ray: a placement group, and in it an actor for each worker that holds its process.

The training runs in a process of its own beside the host, the same one that LocalExecutor starts. So a crash is seen
with its signal and last words, a stuck worker cannot make its actor deaf, and the host knows when the process, and the
GPU memory that it held, is really gone.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from batchyard.cluster.attempts import MARK, Orders
from batchyard.cluster.channel import Exit, Message
from batchyard.cluster.held_worker import Worker, warm_or_cold
from batchyard.cluster.network import common_network
from batchyard.cluster.processes import ProcessId, end_all, marked, wait_until
from batchyard.cluster.ray_room import Room
from batchyard.cluster.supervision import Deliver, RefusedError
from batchyard.cluster.verdict import infrastructure
from batchyard.cluster.worker_process import WorkerProcess, place, worker_environment

START_S = 60.0
"""How long worker actors may take to start."""
WAIT_S = 10.0
"""How long a question for news waits for some."""
HELD_MESSAGES = 2000
"""Messages a host holds until the supervisor fetches them; then its worker waits."""


class WorkerHost:
    """Holds one worker process on its node. One thread asks for news, others may tell."""

    def __init__(self, orders: str, rank: int, fork_servers: dict[str, str] | None) -> None:
        """`fork_servers`: addresses by node; None: the worker is to be a fresh process."""
        self._orders = Orders.from_json(orders)
        self._messages: queue.Queue[Message] = queue.Queue(HELD_MESSAGES)
        environment = worker_environment(self._orders, os.environ)
        if not self._orders.gpus_per_worker:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        if fork_servers is None:
            self._worker: Worker = WorkerProcess(rank=rank, environment=environment, deliver=self._messages.put)
        else:
            address = fork_servers.get(ray.get_runtime_context().get_node_id())
            self._worker = warm_or_cold(rank, environment, self._messages.put, address)
        self._worker.start()
        # Where the others are is not known yet, but torch can be imported meanwhile.
        self._worker.tell({"kind": "prepare", "entry": self._orders.entry})

    def where(self) -> dict[str, Any]:
        """The address of its node, and the host process."""
        return {
            "address": ray.util.get_node_ip_address(),  # type: ignore[no-untyped-call]
            "process": asdict(own_process()),
        }

    def tell(self, message: Message) -> None:
        """Passes a message on to the worker."""
        self._worker.tell(message)

    def dump_stacks(self) -> None:
        """Has the worker log where its threads are."""
        self._worker.dump_stacks()

    def kill(self) -> None:
        """Kills the worker."""
        self._worker.kill()

    def sweep(self) -> None:
        """Ends whatever the attempt's workers left on this node. Raises TimeoutError."""
        end_all(lambda: marked(MARK, self._orders.mark))

    def news(self) -> list[Message]:
        """What the worker has said since; waits a while for the first message."""
        messages: list[Message] = []
        with contextlib.suppress(queue.Empty):
            messages.append(self._messages.get(timeout=WAIT_S))
            while len(messages) < HELD_MESSAGES:
                messages.append(self._messages.get_nowait())
        return messages


def own_process() -> ProcessId:
    """The process that runs this."""
    process = ProcessId.of(os.getpid())
    assert process is not None
    return process


class RayCrew:
    """The workers of an attempt in a placement group: see Room."""

    def __init__(self, orders: Orders, fork_servers: dict[str, str] | None = None) -> None:
        """`fork_servers`: see WorkerHost."""
        self._orders = orders
        self._fork_servers = fork_servers
        self._room = Room(orders)
        self._hosts: list[Any] = []
        self._processes: list[ProcessId] = []
        self._lost: set[int] = set()

    def start(self, deliver: Deliver, cancelled: Callable[[], bool]) -> None:
        """Reserves room, starts the hosts and, when all are there, tells each worker its place."""
        self._room.reserve(cancelled)
        text = self._orders.to_json()
        self._hosts = [
            self._host(rank).remote(text, rank, self._fork_servers) for rank in range(self._orders.world_size)
        ]
        try:
            answers = ray.get([host.where.remote() for host in self._hosts], timeout=START_S)
        except RayError as error:
            cause = f"the Ray worker actors did not start: {error}"
            raise RefusedError(infrastructure(cause, self._orders.attempt.id.job)) from error
        self._processes = [ProcessId(**answer["process"]) for answer in answers]
        for rank, (host, interface) in enumerate(common_network([answer["address"] for answer in answers])):
            self.tell(rank, {"kind": "run", **asdict(place(self._orders, rank, host=host, interface=interface))})
        threading.Thread(target=self._carry, args=(deliver,), name="news", daemon=True).start()

    def _host(self, rank: int) -> Any:
        strategy = PlacementGroupSchedulingStrategy(self._room.group, placement_group_bundle_index=rank)
        actor: Any = ray.remote(WorkerHost)
        return actor.options(
            num_cpus=1,
            num_gpus=self._orders.gpus_per_worker,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=4,
            scheduling_strategy=strategy,
        )

    def _carry(self, deliver: Deliver) -> None:
        """Fetches news of every worker until it has exited or its host is lost."""
        asked = {host.news.remote(): rank for rank, host in enumerate(self._hosts)}
        while asked:
            for answer in ray.wait(list(asked), timeout=WAIT_S)[0]:
                rank = asked.pop(answer)
                messages = self._fetch(rank, answer)
                for message in messages:
                    deliver(rank, message)
                if not any(message.get("kind") == "exit" for message in messages):
                    asked[self._hosts[rank].news.remote()] = rank

    def _fetch(self, rank: int, answer: Any) -> list[Message]:
        try:
            messages: list[Message] = ray.get(answer)
        except RayError as error:
            self._lost.add(rank)
            reason = str(error).strip().splitlines()
            exit_ = Exit(lost=f"its Ray actor died: {' '.join(line.strip() for line in reason)[:1000]}", tail=[])
            return [{"kind": "exit", **asdict(exit_)}]
        return messages

    def tell(self, rank: int, message: Message) -> None:
        """Passes a message on; Ray drops it when the actor is dead."""
        self._hosts[rank].tell.remote(message)

    def dump_stacks(self, rank: int) -> None:
        """Passes the wish on."""
        self._hosts[rank].dump_stacks.remote()

    def kill(self) -> None:
        """Has each host kill its worker."""
        for host in self._hosts:
            host.kill.remote()

    def end(self) -> None:
        """Ends the hosts and the placement group. Ray calls an actor dead before its process is: that is waited for."""
        sweeps = [host.sweep.remote() for rank, host in enumerate(self._hosts) if rank not in self._lost]
        for sweep in sweeps:
            try:
                ray.get(sweep, timeout=15)
            except (RayError, GetTimeoutError):
                continue  # the host died meanwhile, and the kernel ended its worker with it
        for host in self._hosts:
            ray.kill(host, no_restart=True)
        self._room.leave()
        if not wait_until(self._gone, 10.0):
            left = [process.pid for process in self._processes if process.alive()]
            raise TimeoutError(f"worker actors {left} or their placement group are still there")

    def _gone(self) -> bool:
        """On other machines a pid of ours names no process, or another one, which is as good as gone."""
        return not any(process.alive() for process in self._processes) and self._room.left()

"""The process that talks to Ray: `python -m batchyard.cluster.ray_driver FOLDER CONFIG_JSON`, started by ray_link.py.

It is Ray's driver, and the head's parent where the cluster is ours: when it dies, the kernel ends the head with it. It
starts supervisors and copies their events into the attempts' folders. The control plane stays without Ray: Ray ends a
process whose cluster is lost, sets signal handlers and brings a gRPC of its own, none of which a server should share.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from batchyard.cluster.attempts import MARK, AttemptFolder, write_json
from batchyard.cluster.event_log import EventLog
from batchyard.cluster.fork_client import ForkServer
from batchyard.cluster.gpus import visible
from batchyard.cluster.near_crew import Near
from batchyard.cluster.processes import ProcessId, end_all, marked
from batchyard.cluster.ray_cluster import Config, connect, room, watch_head
from batchyard.cluster.ray_crew import START_S, WAIT_S
from batchyard.cluster.ray_nodes import NodeForkServers
from batchyard.cluster.ray_requests import Server
from batchyard.cluster.ray_supervisor import AttemptSupervisor
from batchyard.cluster.verdict import infrastructure, too_big
from batchyard.training.events import Ended

MOST_IDLE = 2
"""Supervisors that wait for another attempt, about 100 MB each; they make up for no more starts at once than that."""
ANSWER_S = 30.0
"""How much longer than promised a supervisor may take to answer, before it is given up."""


class Driver:
    """The attempts on this cluster. Methods without underscore are requests; they return something JSON-ready."""

    def __init__(self, folder: Path, fork_server: ForkServer | None, nodes: NodeForkServers | None) -> None:
        """`fork_server`: on a cluster that is this machine alone; `nodes`: on another; neither: no warm workers."""
        self._folder = folder
        self._fork_server = fork_server
        self._nodes = nodes
        self._idle: list[Any] = []
        """Supervisors that wait for another attempt: an actor takes half a second to start."""
        self._lock = threading.Lock()
        self._followed: dict[str, Any] = {}
        """Attempt name to supervisor, of attempts that have not ended."""
        self._threads: list[threading.Thread] = []

    def resume(self) -> None:
        """Finds the supervisors of attempts that were started before, by another process such as this."""
        for path in self._folder.glob("attempts/*/supervisor.json"):
            folder = AttemptFolder(path.parent)
            if folder.reader.ended():
                continue
            try:
                self._follow(folder, ray.get_actor(folder.path.name))
            except ValueError:
                cause = "the attempt's supervisor is gone from the Ray cluster"
                folder.bury(infrastructure(cause, folder.orders().attempt.id.job))

    def capacity(self) -> dict[str, int]:
        """What the cluster has."""
        return asdict(room())

    def start(self, name: str) -> None:
        """Starts the attempt's supervisor, or refuses an attempt that is too big for the cluster."""
        folder = AttemptFolder(self._folder / "attempts" / name)
        orders = folder.orders()
        with self._lock:
            if name in self._followed or folder.reader.ended():
                return
            refusal = too_big(
                workers=orders.world_size, gpus_per_worker=orders.gpus_per_worker, has=room(), where="the Ray cluster"
            )
            if refusal is not None:
                folder.refuse(refusal)
                return
            supervisor, process = self._begin(name, orders.to_json())
            folder.set_supervisor(process)
            self._follow(folder, supervisor)

    def _begin(self, name: str, orders: str) -> tuple[Any, ProcessId]:
        addresses = None if self._nodes is None else self._nodes.addresses()
        if self._fork_server is not None:
            self._fork_server.ensure()
        while self._idle:
            supervisor = self._idle.pop()
            try:
                return supervisor, ProcessId(**ray.get(supervisor.begin.remote(orders, addresses), timeout=ANSWER_S))
            except (RayError, GetTimeoutError):  # it has died while it was idle, or is as good as dead
                ray.kill(supervisor, no_restart=True)
        supervisor = self._supervisor(name)
        return supervisor, ProcessId(**ray.get(supervisor.begin.remote(orders, addresses), timeout=START_S))

    def _supervisor(self, name: str) -> Any:
        """One that is found again by the attempt's name, where it outlives this process; else one for any attempt.
        Detached in both cases: with another actor Ray would not free the placement groups that it has made.

        It is on the node of this process: no other node's death shall cost the attempt its supervisor, and for some
        seconds Ray goes on placing actors on a node that has died.
        """
        actor: Any = ray.remote(AttemptSupervisor)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = actor.options(
            name=name if self._fork_server is None else f"supervisor-{uuid.uuid4().hex}",
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=4,
            scheduling_strategy=here,
        )
        return options.remote(self._near())

    def _near(self) -> dict[str, Any] | None:
        if self._fork_server is None:
            return None
        near = Near(fork_server=self._fork_server.address, gpu_folder=str(self._folder / "gpus"), gpus=visible())
        return asdict(near)

    def cancel(self, name: str) -> None:
        """Passes the request on."""
        supervisor = self._followed.get(name)
        if supervisor is not None:
            supervisor.cancel.remote()

    def pause(self, name: str) -> None:
        """Passes the request on."""
        supervisor = self._followed.get(name)
        if supervisor is not None:
            supervisor.pause.remote()

    def end(self, within_s: float) -> None:
        """Cancels all attempts and waits until they have ended."""
        for name in list(self._followed):
            self.cancel(name)
        deadline = time.monotonic() + within_s
        for thread in list(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))
        for supervisor in list(self._followed.values()):
            ray.kill(supervisor, no_restart=True)

    def _follow(self, folder: AttemptFolder, supervisor: Any) -> None:
        self._followed[folder.path.name] = supervisor
        thread = threading.Thread(target=self._copy, args=(folder, supervisor), name=folder.path.name, daemon=True)
        self._threads = [*(t for t in self._threads if t.is_alive()), thread]
        thread.start()
        # Asked before the attempt could be found among those that are followed.
        if folder.cancelled.exists():
            supervisor.cancel.remote()
        elif folder.paused.exists():
            supervisor.pause.remote()

    def _copy(self, folder: AttemptFolder, supervisor: Any) -> None:
        """Copies events until the last one, which is written when the supervisor is gone."""
        log = EventLog(folder.events)
        try:
            ended = self._copy_until_ended(folder, supervisor, log)
        except (RayError, GetTimeoutError) as error:
            cause = f"the attempt's supervisor was lost: {' '.join(str(error).split())[:1000]}"
            ended = infrastructure(cause, folder.orders().attempt.id.job).to_json()
        # Counts from here on, even if this process dies before it has written the last line.
        write_json(folder.end, ended)
        self._dispose(folder, supervisor, clean=ended["failure_class"] != "infrastructure")
        log.append_json(ended)
        log.close()
        self._followed.pop(folder.path.name, None)

    def _copy_until_ended(self, folder: AttemptFolder, supervisor: Any, log: EventLog) -> dict[str, Any]:
        cursor = folder.reader.count()
        while True:
            for line in ray.get(supervisor.events.remote(cursor), timeout=WAIT_S + ANSWER_S):
                event: dict[str, Any] = json.loads(line)
                if event["kind"] == Ended.kind:
                    return event
                log.append_json(event)
                cursor += 1

    def _dispose(self, folder: AttemptFolder, supervisor: Any, *, clean: bool) -> None:
        """Keeps the supervisor for another attempt where this one has ended as it should; else ends it, and whatever is
        left here of an attempt whose supervisor was lost.
        """
        if clean and self._fork_server is not None and len(self._idle) < MOST_IDLE:
            self._idle.append(supervisor)
            return
        ray.kill(supervisor, no_restart=True)
        process = folder.supervisor()
        if process is not None and not process.await_end(10.0):
            print(f"supervisor {process.pid} of {folder.path.name} does not end", file=sys.stderr)  # noqa: T201
        mark = folder.orders().mark
        end_all(lambda: marked(MARK, mark))


def main() -> None:
    """Serves until it is told to end."""
    folder, config = Path(sys.argv[1]), Config(**json.loads(sys.argv[2]))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    fork_server = ForkServer() if config.warm and config.address is None else None
    if fork_server is not None:
        fork_server.ensure()  # it loads while Ray starts
    connect(config)
    if config.address is None:
        threading.Thread(target=watch_head, name="head", daemon=True).start()
    nodes = NodeForkServers() if config.warm and config.address is not None else None
    if nodes is not None:
        nodes.addresses()  # they load while there is nothing to do
    driver = Driver(folder, fork_server, nodes)
    driver.resume()
    with Server(config.socket, driver) as server:
        server.serve_forever(poll_interval=0.1)
    if config.address is not None:
        ray.shutdown()
    # A head of ours ends with this process: the kernel sees to it, and quicker than Ray would. So does the fork server.
    os._exit(0)


if __name__ == "__main__":
    main()

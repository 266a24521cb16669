"""A warm worker for a process that cannot fork it itself: a fork of the fork server holds it, and passes messages on.

The holder runs nothing but this, so that it can be relied on to end the worker when its own peer is gone.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from batchyard.cluster import worker_main
from batchyard.cluster.channel import Channel, Exit, Message
from batchyard.cluster.fork_client import ColdError, ask, offer
from batchyard.cluster.forked_worker import fork_worker, show_command
from batchyard.cluster.worker_process import WorkerProcess
from batchyard.training.events import LogLine


def hold(connection: socket.socket, request: Mapping[str, Any]) -> None:
    """The holder's life: forks the worker while it has one thread, then passes on what either side says."""
    show_command("held_worker")
    offer(connection)
    environment = request["environment"]
    forked = fork_worker(lambda end, parent: worker_main.serve_forked(end, parent, environment), [connection.close])
    upwards = Channel(connection)

    def deliver(message: Message) -> None:
        try:
            upwards.send(message)
        finally:
            if message["kind"] == "exit":
                os._exit(0)

    worker = WorkerProcess(rank=request["arguments"]["rank"], deliver=deliver, forked=forked)
    worker.start()
    for message in upwards.receive():
        match message["kind"]:
            case "kill":
                worker.kill()
            case "dump_stacks":
                worker.dump_stacks()
            case _:
                worker.tell(message)
    os._exit(0)  # and the kernel ends the worker


class HeldWorker:
    """The other end: as WorkerProcess for whoever uses it."""

    def __init__(
        self, *, rank: int, environment: Mapping[str, str], deliver: Callable[[Message], None], server: str
    ) -> None:
        """Raises ColdError."""
        self.rank = rank
        self._deliver = deliver
        self._connection = ask(server, "worker", environment, rank=rank).accept()
        self._channel = Channel(self._connection)

    def start(self) -> None:
        """Begins to deliver what the worker says."""
        threading.Thread(target=self._carry, name=f"worker-{self.rank}", daemon=True).start()

    def tell(self, message: Message) -> None:
        """Sends the worker a message; none when it is gone."""
        try:
            self._channel.send(message)
        except OSError:
            return

    def dump_stacks(self) -> None:
        """Has the worker log where each of its threads is."""
        self.tell({"kind": "dump_stacks"})

    def kill(self) -> None:
        """Kills the worker and whatever it started in its process group."""
        self.tell({"kind": "kill"})

    def _carry(self) -> None:
        exited = False
        try:
            for message in self._channel.receive():
                exited = exited or message["kind"] == "exit"
                self._deliver(message)
        except (OSError, ValueError):
            pass  # cut off in the middle: what held it was killed
        if not exited:
            self._deliver({"kind": "exit", **asdict(Exit(lost="the process that held it was killed", tail=[]))})
        self._connection.close()


Worker = WorkerProcess | HeldWorker


def warm_or_cold(
    rank: int, environment: Mapping[str, str], deliver: Callable[[Message], None], server: str | None
) -> Worker:
    """A worker from the fork server, or a fresh process where there is none to be had; then the job's log says why."""
    try:
        if server is None:
            raise ColdError("this node has no fork server yet")
        return HeldWorker(rank=rank, environment=environment, deliver=deliver, server=server)
    except ColdError as error:
        text = f"worker {rank} starts cold, which takes seconds: {error}"
        deliver({"kind": "event", "event": LogLine(level="INFO", text=text, rank=rank).to_json()})
        return WorkerProcess(rank=rank, environment=environment, deliver=deliver)

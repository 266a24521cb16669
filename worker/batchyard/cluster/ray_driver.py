"""The process that talks to Ray: `python -m batchyard.cluster.ray_driver FOLDER CONFIG_JSON`, started by ray_link.py.

It is Ray's driver, and the head's parent where the cluster is ours: when it dies, the kernel ends the head with it. It
starts supervisors and copies their events into the attempts' folders. The control plane stays without Ray: Ray ends a
process whose cluster is lost, sets signal handlers and brings a gRPC of its own, none of which a server should share.
"""

from __future__ import annotations

import json
import os
import signal
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from batchyard.cluster.attempts import MARK, AttemptFolder, write_json
from batchyard.cluster.event_log import EventLog
from batchyard.cluster.processes import ProcessId, end_all, marked
from batchyard.cluster.ray_cluster import Config, connect, room, watch_head
from batchyard.cluster.ray_crew import START_S, WAIT_S
from batchyard.cluster.ray_supervisor import AttemptSupervisor
from batchyard.cluster.verdict import infrastructure, too_big
from batchyard.training.events import Ended

ANSWER_S = 30.0
"""How much longer than promised a supervisor may take to answer, before it is given up."""


class Driver:
    """The attempts on this cluster. Methods without underscore are requests; they return something JSON-ready."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
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
            supervisor = self._supervisor(name).remote(orders.to_json())
            folder.set_supervisor(ProcessId(**ray.get(supervisor.process.remote(), timeout=START_S)))
            self._follow(folder, supervisor)

    def _supervisor(self, name: str) -> Any:
        actor: Any = ray.remote(AttemptSupervisor)
        return actor.options(
            name=name,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=4,
        )

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
        self._dispose(folder, supervisor)
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

    def _dispose(self, folder: AttemptFolder, supervisor: Any) -> None:
        """Ends the supervisor, and whatever is left here of an attempt whose supervisor was lost."""
        ray.kill(supervisor, no_restart=True)
        process = folder.supervisor()
        if process is not None and not process.await_end(10.0):
            print(f"supervisor {process.pid} of {folder.path.name} does not end", file=sys.stderr)  # noqa: T201
        mark = folder.orders().mark
        end_all(lambda: marked(MARK, mark))


class Requests(socketserver.StreamRequestHandler):
    """One request a connection: a JSON line in, a JSON line out."""

    def handle(self) -> None:
        """Answers one request."""
        request = json.loads(self.rfile.readline())
        server = self.server
        assert isinstance(server, Server)
        try:
            answer = {"value": server.carry_out(**request)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        self.wfile.write(json.dumps(answer).encode() + b"\n")


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Takes requests from the control plane. Its socket lies in a folder that only its owner may enter."""

    daemon_threads = True

    def __init__(self, config: Config, driver: Driver) -> None:
        self._driver = driver
        Path(config.socket).unlink(missing_ok=True)
        super().__init__(config.socket, Requests)

    def carry_out(self, do: str, **arguments: Any) -> object:
        """Calls the driver's method."""
        actions: dict[str, Callable[..., object]] = {
            "capacity": self._driver.capacity,
            "start": self._driver.start,
            "cancel": self._driver.cancel,
            "pause": self._driver.pause,
        }
        if do == "end":
            self._driver.end(**arguments)
            # Answers first; then serve_forever returns.
            threading.Thread(target=self.shutdown, daemon=True).start()
            return None
        return actions[do](**arguments)


def main() -> None:
    """Serves until it is told to end."""
    folder, config = Path(sys.argv[1]), Config(**json.loads(sys.argv[2]))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    connect(config)
    if config.address is None:
        threading.Thread(target=watch_head, name="head", daemon=True).start()
    driver = Driver(folder)
    driver.resume()
    with Server(config, driver) as server:
        server.serve_forever(poll_interval=0.1)
    if config.address is not None:
        ray.shutdown()
    # A head of ours ends with this process: the kernel sees to it, and quicker than Ray would.
    os._exit(0)


if __name__ == "__main__":
    main()

"""A worker process: `python -m batchyard.cluster.worker_main CHANNEL_FD PARENT_PID`, started by worker_process.py, or
a fork that has all of this loaded.

It lives and dies with its parent, takes its orders from the channel, runs the training entry once and reports how it
ended. The same process, whoever holds it, is why a job gives the same weights on Ray and on plain subprocesses.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from batchyard.cluster.channel import Channel, Place, Result
from batchyard.cluster.forked_worker import adopt, show_command
from batchyard.cluster.network import interface_of
from batchyard.cluster.processes import die_with_parent
from batchyard.failpoints import failpoint
from batchyard.training.context import PausedError, StoppedError, WorkerContext
from batchyard.training.events import Ended, Event, TrainingError
from batchyard.training.rendezvous import join_store, open_store
from batchyard.training.spec import TrainingJobSpec

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

BEAT_S = 0.5
"""How often a worker says that it has done steps, if it has."""
SPARE_CHECKPOINTS = 20
"""The control plane removes old checkpoints when it has stored that there are newer ones: a report that is lost takes
none with it. Only while it is away for more than these does the worker remove any, for disks are not endless.
"""
STACK_SIGNAL = signal.SIGUSR2
"""Makes the worker write where each of its threads is, even when Python code cannot run."""


class Worker:
    """The worker's side of the channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._orders: queue.SimpleQueue[dict[str, object]] = queue.SimpleQueue()
        self._address: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._pause = threading.Event()
        self._steps = 0
        threading.Thread(target=self._listen, name="channel", daemon=True).start()

    def _listen(self) -> None:
        for message in self._channel.receive():
            match message.pop("kind"):
                case "stop":
                    self._stop.set()
                case "pause":
                    self._pause.set()
                case "rendezvous":
                    self._address.put(message["address"])
                case "leave":
                    leave(0)
                case _:
                    self._orders.put(message)

    def _begin_step(self) -> bool:
        """Whether the worker is to stop; asked between two steps, and so the sign that it comes on."""
        self._steps += 1
        return self._stop.is_set()

    def _beat(self) -> None:
        """Passes that sign on. A thread of its own would go on telling of a worker that hangs: so it tells of steps."""
        told = 0
        while True:
            time.sleep(BEAT_S)
            if self._steps != told:
                told = self._steps
                with contextlib.suppress(OSError):  # whoever held this worker is gone, and soon so is it
                    self._channel.send({"kind": "beat"})

    def run(self) -> None:
        """Carries out the orders `prepare` and `run`, then reports how that ended."""
        result = self._train()
        failpoint("worker.before_result")
        flush()
        self._channel.send({"kind": "result", **asdict(result)})
        # Rank 0 holds the store of the process group: it stays until nobody needs it, and then so do all.
        threading.Event().wait()

    def _train(self) -> Result:
        try:
            entry = load(str(self._orders.get()["entry"]))
            entry(self._context(Place(**self._orders.get())))  # type: ignore[arg-type]
        except TrainingError as error:
            return Result(outcome="failed", failure_class="user", cause=error.cause, next_step=error.next_step)
        except StoppedError:
            return Result(outcome="stopped")
        except PausedError:
            return Result(outcome="paused")
        except BaseException as error:
            traceback.print_exc()
            cause = traceback.format_exception_only(error)[-1].strip()
            return Result(outcome="failed", failure_class="infrastructure", cause=cause)
        return Result(outcome="done")

    def _context(self, place: Place) -> WorkerContext:
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        interface = place.interface or interface_of(place.host)
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = interface
        return WorkerContext(
            job=place.job,
            attempt=place.attempt,
            spec=TrainingJobSpec.from_mapping(place.spec),
            rank=place.rank,
            world_size=place.world_size,
            connect=lambda: self._open_store(place) if place.rank == 0 else self._join_store(place),
            emit=self._emit,
            stop_requested=self._begin_step,
            pause_requested=self._pause.is_set,
            artifact_uri=place.artifact_uri,
            checkpoint_uri=place.checkpoint_uri,
            spare_checkpoints=SPARE_CHECKPOINTS,
            resume_from=place.resume_from,
            data_folders=tuple(place.data_folders),
            device=place.device,
        )

    def _emit(self, event: Event) -> None:
        if isinstance(event, Ended):
            raise TypeError("Ended is the supervisor's to emit: return, or raise an error of training's")
        self._channel.send({"kind": "event", "event": event.to_json()})

    def _open_store(self, place: Place) -> Store:
        store, port = open_store(place.host, place.world_size)
        self._channel.send({"kind": "rendezvous", "address": f"{place.host}|{port}"})
        return store

    def _join_store(self, place: Place) -> Store:
        host, port = self._address.get().split("|")
        return join_store(host, int(port), place.world_size)


def load(entry: str) -> Callable[[WorkerContext], None]:
    """The function that `module:function` names."""
    module, _, name = entry.partition(":")
    function: Callable[[WorkerContext], None] = getattr(importlib.import_module(module), name)
    return function


def flush() -> None:
    """Writes out what print and logging still hold."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def leave(code: int) -> None:
    """Exits without the interpreter's teardown: the work is delivered, and a library that crashes or hangs while it is
    unloaded (process groups, thread pools) could only spoil it.
    """
    flush()
    os._exit(code)


def serve(end: socket.socket, parent: int) -> None:
    """Runs one worker, with its end of the channel."""
    die_with_parent(parent)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # supervisors block it
    faulthandler.enable()
    faulthandler.register(STACK_SIGNAL)
    Worker(Channel(end)).run()


def serve_forked(end: socket.socket, parent: int, environment: Mapping[str, str]) -> None:
    """Runs one worker that was forked, with the environment that a fresh one would be born with."""
    from batchyard.training import warm  # here: a fresh worker need not wait for it

    show_command("worker_main")
    adopt(environment)
    warm.begin()
    serve(end, parent)


def main() -> None:
    """Runs one worker."""
    end = socket.socket(fileno=int(sys.argv[1]))
    end.set_inheritable(False)
    serve(end, int(sys.argv[2]))


if __name__ == "__main__":
    main()

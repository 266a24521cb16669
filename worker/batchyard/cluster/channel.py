"""What a supervisor and a worker process say to each other: JSON objects, one a line, over a socket pair.

to the worker
  prepare      entry                       import the training entry; a warm worker would wait here
  run          every field of `Place`      run it
  rendezvous   address                     where rank 0 has opened the store of the process group
  stop                                     stop between two steps
  pause                                    write a checkpoint between two steps and stop
  leave                                    every worker is done: exit
from the worker
  event        event (Event.to_json)
  beat                                     steps were done since the last one
  rendezvous   address
  result       every field of `Result`     the entry has returned or raised; the worker stays until `leave`
from whoever holds the process, after it is gone
  exit         every field of `Exit`
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Place:
    """One worker's place in an attempt."""

    job: str
    attempt: int
    spec: dict[str, Any]
    rank: int
    world_size: int
    artifact_uri: str
    checkpoint_uri: str
    resume_from: str | None
    data_folders: list[str]
    device: str
    host: str
    """The address of this machine that rank 0 binds its store to."""
    interface: str
    """The network interface that collectives use; empty: the one that has `host`."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """How the training entry ended in one worker."""

    outcome: str
    """done, stopped, paused or failed."""
    failure_class: str | None = None
    cause: str | None = None
    next_step: str | None = None


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a worker process ended."""

    code: int | None = None
    """As subprocess gives it: negative for a signal. None: it was lost together with what held it."""
    lost: str | None = None
    """Why it was lost."""
    tail: list[str]
    """The last lines it wrote."""


class Channel:
    """One end of the socket pair. `send` is thread-safe; one thread may receive."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        """Sends at once. Raises OSError when the other side is gone."""
        line = json.dumps(message).encode() + b"\n"
        with self._lock:
            self._socket.sendall(line)

    def receive(self) -> Iterator[Message]:
        """Every message until the other side closes."""
        with self._socket.makefile("rb") as lines:
            for line in lines:
                yield json.loads(line)

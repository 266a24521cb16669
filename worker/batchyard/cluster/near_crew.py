"""The workers of an attempt on a Ray head of our own: all of them on this machine, so the supervisor holds them itself.

The placement group is what they are counted by. No actor is started for a worker, which takes half a second; where a
cluster has other nodes, ray_crew.py does that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from batchyard.cluster.attempts import Orders
from batchyard.cluster.channel import Message
from batchyard.cluster.gpus import GpuLease
from batchyard.cluster.held_worker import Worker, warm_or_cold
from batchyard.cluster.local_crew import LocalCrew
from batchyard.cluster.processes import wait_until
from batchyard.cluster.ray_room import Room
from batchyard.cluster.supervision import Deliver


@dataclass(frozen=True, kw_only=True)
class Near:
    """What the driver's machine has for workers."""

    fork_server: str
    """Its address."""
    gpu_folder: str
    """Of the locks on GPUs."""
    gpus: list[str]
    """As CUDA_VISIBLE_DEVICES names them; Ray hides them from a supervisor."""


class NearCrew(LocalCrew):
    """Workers forked by the fork server, or fresh processes where it gives none."""

    def __init__(self, orders: Orders, near: Near) -> None:
        super().__init__(orders, GpuLease(Path(near.gpu_folder), near.gpus))
        self._room = Room(orders)
        self._fork_server = near.fork_server

    def start(self, deliver: Deliver, cancelled: Callable[[], bool]) -> None:
        """Reserves room, then starts every worker at once."""
        self._room.reserve(cancelled)
        super().start(deliver, cancelled)

    def _worker(self, rank: int, deliver: Callable[[Message], None]) -> Worker:
        return warm_or_cold(rank, self._environment(rank), deliver, self._fork_server)

    def end(self) -> None:
        """Ends what is left, and gives GPUs and room back, in this order: who gets the room finds the GPUs free."""
        super().end()
        self._room.leave()
        if not wait_until(self._room.left, 10.0):
            raise TimeoutError("the placement group is still there")

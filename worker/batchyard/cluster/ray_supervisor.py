"""The supervisor of an attempt on Ray."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from batchyard.cluster.attempts import Orders
from batchyard.cluster.event_log import EventLog, EventReader
from batchyard.cluster.near_crew import Near, NearCrew
from batchyard.cluster.ray_crew import WAIT_S, RayCrew, own_process
from batchyard.cluster.supervision import Crew, Supervision


class AnnouncedLog(EventLog):
    """An event log that wakes whoever waits for news."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.changed = threading.Condition()

    def append_json(self, event: dict[str, Any]) -> None:
        """Adds one event and wakes the waiting."""
        super().append_json(event)
        with self.changed:
            self.changed.notify_all()


class AttemptSupervisor:
    """Supervises one attempt, and where nothing of it is left, another one after it. No code of a job runs in it.

    Detached and named it outlives whoever asked for it, and can be found again.
    """

    def __init__(self, near: dict[str, Any] | None) -> None:
        """`near`: the fields of Near where all workers run on this machine; else each gets an actor somewhere."""
        self._near = near and Near(**near)
        self._orders: Orders | None = None
        self._log: AnnouncedLog

    def begin(self, orders: str, fork_servers: dict[str, str] | None) -> dict[str, Any]:
        """Begins an attempt unless it is the present one. Returns this process. `fork_servers`: see WorkerHost."""
        given = Orders.from_json(orders)
        if self._orders != given:
            if self._orders is not None:
                self._log.close()
            self._orders = given
            self._supervise(given, NearCrew(given, self._near) if self._near else RayCrew(given, fork_servers))
        return asdict(own_process())

    def _supervise(self, orders: Orders, crew: Crew) -> None:
        # Events are kept on disk, not in memory, in a file that vanishes with this process.
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115
        path = Path(f"/proc/self/fd/{self._spool.fileno()}")
        self._log = AnnouncedLog(path)
        self._reader = EventReader(path)
        self._supervision = Supervision(
            job=orders.attempt.id.job,
            world_size=orders.world_size,
            crew=crew,
            log=self._log,
            grace_s=orders.grace_s,
            hung_after_s=orders.hung_after_s,
        )
        threading.Thread(target=self._supervision.run, name="supervision", daemon=True).start()

    def cancel(self) -> None:
        """Cancels the attempt."""
        self._supervision.cancel()

    def pause(self) -> None:
        """Pauses the attempt."""
        self._supervision.pause()

    def events(self, cursor: int) -> list[str]:
        """Events after `cursor` as JSON, about a megabyte at most; waits a while for the first."""
        with self._log.changed:
            lines = self._reader.lines(cursor)
            if not lines:
                self._log.changed.wait(WAIT_S)
                lines = self._reader.lines(cursor)
        return [line.decode() for line in lines]

"""The supervisor of an attempt on Ray."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from batchyard.cluster.attempts import Orders
from batchyard.cluster.event_log import EventLog, EventReader
from batchyard.cluster.ray_crew import WAIT_S, RayCrew, own_process
from batchyard.cluster.supervision import Supervision


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
    """Supervises one attempt. Detached and named: it outlives whoever asked for it, and can be found again."""

    def __init__(self, orders: str) -> None:
        self._orders = Orders.from_json(orders)
        # Events are kept on disk, not in memory, in a file that vanishes with this process.
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115
        path = Path(f"/proc/self/fd/{self._spool.fileno()}")
        self._log = AnnouncedLog(path)
        self._reader = EventReader(path)
        self._supervision = Supervision(
            job=self._orders.attempt.id.job,
            world_size=self._orders.world_size,
            crew=RayCrew(self._orders),
            log=self._log,
            grace_s=self._orders.grace_s,
            hung_after_s=self._orders.hung_after_s,
        )
        threading.Thread(target=self._supervision.run, name="supervision", daemon=True).start()

    def process(self) -> dict[str, Any]:
        """The process that this is."""
        return asdict(own_process())

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

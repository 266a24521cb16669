"""Runs attempts on a Ray cluster. Imports neither Ray nor torch: a driver process of its own has Ray."""

from __future__ import annotations

import time
from pathlib import Path

from batchyard.cluster import gpus
from batchyard.cluster.attempts import ENTRY, AttemptFolder
from batchyard.cluster.executor import Capacity, ClusterUnavailableError
from batchyard.cluster.folder_executor import FolderExecutor
from batchyard.cluster.ray_link import RayLink
from batchyard.cluster.verdict import infrastructure
from batchyard.training.events import Ended

ASK_S = 10.0
"""For an answer of a driver that runs."""
START_S = 90.0
"""For the start of a supervisor actor."""
RECONNECT_S = 5.0
"""Between two tries to reach an existing cluster again."""
LOST_S = 60.0
"""An existing cluster that cannot be reached for so long has lost the attempts that ran on it."""


class RayExecutor(FolderExecutor):
    """A detached supervisor actor for each attempt, and worker actors in a placement group.

    Args:
        folder: where attempts live, and the record of the driver process; another RayExecutor on the same folder goes
            on where this one ended.
        address: an existing cluster, which is never stopped; None starts a head of our own on this machine at the first
            attempt, for the loopback interface only.
        workers: CPUs of that head; an existing cluster says itself what it has.
        grace_s: seconds between a request to stop and force.
        entry: the training entry, module:function.
        warm: whether workers are forked from a process on their node that has loaded torch; on a head of our own
            supervisors, too, go on to the next attempt.
    """

    def __init__(
        self,
        folder: Path,
        address: str | None,
        workers: int,
        grace_s: float = 5.0,
        entry: str = ENTRY,
        *,
        warm: bool = False,
    ) -> None:
        if address == "":
            raise ValueError("address: '' given; expected host:port of a Ray cluster, or None for one of our own")
        super().__init__(folder, workers, grace_s, entry)
        self._address = address
        self._ray = RayLink(self._folder / "ray", self._folder, address, workers, warm=warm)
        self._capacity: tuple[float, Capacity] | None = None
        self._tried = 0.0
        self._lost_since: float | None = None

    def capacity(self) -> Capacity:
        """What our head has or would have; what an existing cluster had some seconds ago.

        Raises ClusterUnavailableError.
        """
        if self._address is None:
            return Capacity(workers=self._workers, gpus=min(self._workers, len(gpus.visible())))
        now = time.monotonic()
        if self._capacity is None or now - self._capacity[0] > RECONNECT_S:
            self._ray.ensure()
            self._capacity = (now, Capacity(**self._ray.ask("capacity", answer_s=ASK_S)))
        return self._capacity[1]

    def _launch(self, folder: AttemptFolder) -> None:
        if self._address is None and self._refused(folder, self.capacity(), "this machine's Ray cluster"):
            return
        try:
            self._ray.ensure()
            self._ray.ask("start", answer_s=START_S, name=folder.path.name)
        except ClusterUnavailableError as error:
            folder.bury(infrastructure(str(error), folder.orders().attempt.id.job))

    def _orphaned(self, folder: AttemptFolder) -> bool:
        if self._ray.alive():
            self._lost_since = None
            return False
        return self._address is None or not self._reconnecting()

    def _reconnecting(self) -> bool:
        """Tries to reach an existing cluster again, where supervisors go on meanwhile; False when it is given up."""
        now = time.monotonic()
        self._lost_since = now if self._lost_since is None else self._lost_since
        if now - self._tried > RECONNECT_S:
            self._tried = now
            self._ray.ensure()
        return now - self._lost_since < LOST_S

    def _bury(self, folder: AttemptFolder) -> None:
        job = folder.orders().attempt.id.job
        if folder.supervisor() is None:
            folder.bury(infrastructure("the attempt's supervisor was not started", job))
            return
        cause = self._ray.why_down()
        self._ray.sweep_if_down()
        folder.bury(infrastructure(cause, job))

    def _stop(self, folder: AttemptFolder) -> None:
        self._pass_on("cancel", folder)

    def _pause(self, folder: AttemptFolder) -> None:
        self._pass_on("pause", folder)

    def _pass_on(self, request: str, folder: AttemptFolder) -> None:
        try:
            if self._ray.alive():
                self._ray.ask(request, answer_s=ASK_S, ready_s=0.0, name=folder.path.name)
        except ClusterUnavailableError:
            return  # poll finds out

    def _await_exit(self, folder: AttemptFolder) -> None:
        """Nothing to wait for: the driver writes the Ended event when the supervisor is gone."""

    def close(self) -> None:
        """Cancels every attempt that has not ended, and ends the driver and a head of our own."""
        with self._lock:
            self._ray.end(self._grace_s)
            for folder in self._attempts.unended():
                folder.bury(Ended(outcome="cancelled"))

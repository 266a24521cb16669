"""Whether an engine may be opened at low priority, beside others that serve.

Threads inherit the priority of the thread that starts them, and only a privileged process can raise it again: what an
engine's threads are opened with, its batches run with. Those of OpenVINO belong to the process, though. They are
started for the first network that takes so many, stay when it is closed, and compute for every later one, whoever opens
that. So all but the first may be opened at low priority: at normal priority the 120 ms that OpenVINO takes to read and
to compile ResNet-18 made requests at half load wait for up to 90 ms instead of 35.
"""

from __future__ import annotations

from collections.abc import Sequence

from batchyard.serving.engines.catalogue import CATALOGUE
from batchyard.serving.engines.timings import Share


class ThreadPools:
    """Which threads this process has already. Belongs to one event loop."""

    def __init__(self) -> None:
        self._started: dict[str, int] = {}

    def started(self, shares: Sequence[Share]) -> None:
        """Engines for these were opened at normal priority."""
        for share in shares:
            entry = CATALOGUE[share.engine]
            if entry.shared_threads:
                self._started[entry.module] = max(share.threads, self._started.get(entry.module, 0))

    def suffice_for(self, shares: Sequence[Share]) -> bool:
        """Whether opening engines for these starts no thread that batches will run on."""
        return all(share.threads <= self._started.get(CATALOGUE[share.engine].module, 0) for share in shares)

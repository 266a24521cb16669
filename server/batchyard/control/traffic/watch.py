"""Reads the inference plane's metrics every two seconds, as long as the service runs."""

from __future__ import annotations

import asyncio
import logging

from batchyard.control.clock import Clock
from batchyard.control.inference_plane import InferencePlane
from batchyard.control.notices import Notices
from batchyard.control.traffic.history import History
from batchyard.control.traffic.samples import read
from batchyard.endpoint.errors import UnavailableError

log = logging.getLogger(__name__)

SECONDS = 2.0
"""Between two readings; one takes about 3 ms of this process's core for two versions."""
TOPIC = "traffic"


class TrafficWatch:
    """Between `start` and `stop`, the history grows."""

    def __init__(self, plane: InferencePlane, notices: Notices, clock: Clock, seconds: float = SECONDS) -> None:
        self.history = History()
        self.problem = ""
        """Why the newest figures are missing; empty while the plane answers."""
        self._plane = plane
        self._notices = notices
        self._clock = clock
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None
        self._readings = 0

    @property
    def position(self) -> int:
        """Grows with every reading, failed ones too."""
        return self._readings

    def start(self) -> None:
        """Begins to read."""
        self._task = asyncio.create_task(self._read_on())

    async def stop(self) -> None:
        """Ends reading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def wait(self, position: int) -> None:
        """Returns after the next reading. Raises UnavailableError at shutdown."""
        await self._notices.wait(TOPIC, position)

    async def _read_on(self) -> None:
        while True:
            await self._read_once()
            self._readings += 1
            self._notices.advance(TOPIC, self._readings)
            await asyncio.sleep(self._seconds)

    async def _read_once(self) -> None:
        try:
            sample = read(await self._plane.metrics())
        except UnavailableError as error:
            self.problem = error.message
        except ValueError:
            log.exception("the inference plane's metrics cannot be read")
            self.problem = "the inference plane's metrics cannot be read: the service's log says why"
        else:
            self.problem = ""
            self.history.add(self._clock.now(), sample)

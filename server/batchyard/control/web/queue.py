"""Who waits, and why: the queue as a whole, and one job's explanation."""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import web

from batchyard.control.explaining import Explaining
from batchyard.control.jobs import Jobs
from batchyard.control.rpc.convert_explanation import explanation, training_queue
from batchyard.control.web.api import answer, end, job_id
from batchyard.control.web.query import Query
from batchyard.control.web.stream import EventStream
from batchyard.endpoint.errors import UnavailableError
from batchyard.v1 import queue_pb2

PAUSE_SECONDS = 1.0
"""Between two looks at the queue while jobs change: the cluster is asked what it has each time."""


class QueueApi:
    """Reads the queue; changes nothing."""

    def __init__(self, jobs: Jobs, explaining: Explaining) -> None:
        self._jobs = jobs
        self._explaining = explaining

    def routes(self) -> list[web.RouteDef]:
        """GET /api/queue and /api/jobs/{id}/explanation."""
        return [web.get("/api/queue", self.queue), web.get("/api/jobs/{job}/explanation", self.explanation)]

    async def explanation(self, request: web.Request) -> web.Response:
        """TrainingJobExplanation, as TrainingService.ExplainTrainingJob."""
        Query(request)
        return answer(explanation(await self._explaining.explain(job_id(request))))

    async def queue(self, request: web.Request) -> web.StreamResponse:
        """TrainingQueue; with watch=true a stream of them, one whenever something in it has changed."""
        if not Query(request, "watch").flag("watch"):
            return answer(await self._queue())
        with self._jobs.changes() as changes:
            stream = EventStream(request)
            with contextlib.suppress(ConnectionResetError, UnavailableError):
                await stream.open()
                told = None
                while True:
                    queue = await self._queue()
                    if queue != told:
                        await stream.send([("", queue)])
                    told = queue
                    await asyncio.sleep(PAUSE_SECONDS)
                    await stream.alive_until(changes.next())
            return await end(stream)

    async def _queue(self) -> queue_pb2.TrainingQueue:
        return training_queue(*await self._explaining.waiting())

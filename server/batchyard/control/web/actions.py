"""What the page may ask of a job: the same as over gRPC, with the same outcome."""

from __future__ import annotations

from aiohttp import web

from batchyard.control.jobs import Jobs
from batchyard.control.rpc import convert
from batchyard.control.web.api import answer, job_id
from batchyard.control.web.query import Query


class Actions:
    """Each returns the TrainingJob as it is right after; asked twice, nothing changes."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def routes(self) -> list[web.RouteDef]:
        """POST /api/jobs/{id}/cancel, .../pause and .../resume."""
        asked = {"cancel": self.cancel, "pause": self.pause, "resume": self.resume}
        return [web.post(f"/api/jobs/{{job}}/{verb}", handler) for verb, handler in asked.items()]

    async def cancel(self, request: web.Request) -> web.Response:
        """As TrainingService.CancelTrainingJob."""
        Query(request)
        return answer(convert.training_job(await self._jobs.cancel(job_id(request))))

    async def pause(self, request: web.Request) -> web.Response:
        """As TrainingService.PauseTrainingJob."""
        Query(request)
        return answer(convert.training_job(await self._jobs.pause(job_id(request))))

    async def resume(self, request: web.Request) -> web.Response:
        """As TrainingService.ResumeTrainingJob."""
        Query(request)
        return answer(convert.training_job(await self._jobs.resume(job_id(request))))

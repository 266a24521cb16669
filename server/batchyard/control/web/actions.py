"""What the page may ask of a job: the same as over gRPC, with the same outcome."""

from __future__ import annotations

from aiohttp import web
from google.protobuf import json_format

from batchyard.control.jobs import Jobs
from batchyard.control.rpc import convert
from batchyard.control.web.api import answer, job_id
from batchyard.control.web.query import Query
from batchyard.endpoint.errors import FieldViolation, InvalidInputError
from batchyard.v1 import training_pb2


class Actions:
    """Each returns a TrainingJob as it is right after; asked twice, nothing changes."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def routes(self) -> list[web.RouteDef]:
        """POST /api/jobs/{id}/cancel, .../pause, .../resume, .../rerun and .../annotate."""
        asked = {"cancel": self.cancel, "pause": self.pause, "resume": self.resume, "rerun": self.rerun}
        asked["annotate"] = self.annotate
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

    async def rerun(self, request: web.Request) -> web.Response:
        """As TrainingService.CreateTrainingJob with the job's own spec: the new job. Idempotent with a request_id."""
        request_id = Query(request, "request_id").text("request_id")
        first = await self._jobs.get(job_id(request))
        return answer(convert.training_job(await self._jobs.create(first.spec, request_id, tags=first.tags)))

    async def annotate(self, request: web.Request) -> web.Response:
        """As TrainingService.AnnotateTrainingJob; the body is its request in protobuf's JSON mapping."""
        Query(request)
        asked = _parsed(await request.read())
        note = asked.note if asked.HasField("note") else None
        job = await self._jobs.annotate(job_id(request), asked.add_tags, asked.remove_tags, note)
        return answer(convert.training_job(job))


def _parsed(body: bytes) -> training_pb2.AnnotateTrainingJobRequest:
    try:
        return json_format.Parse(body, training_pb2.AnnotateTrainingJobRequest())
    except (json_format.ParseError, UnicodeDecodeError) as error:
        problem = f"expected an AnnotateTrainingJobRequest as JSON: {error}"
        raise InvalidInputError([FieldViolation("body", problem)]) from None

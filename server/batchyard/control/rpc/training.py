"""TrainingService: see proto/batchyard/v1/training.proto."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from batchyard.control import names
from batchyard.control.explaining import Explaining
from batchyard.control.jobs import Jobs
from batchyard.control.listing import Listing
from batchyard.control.rpc import convert, convert_explanation
from batchyard.failpoints import failpoint
from batchyard.v1 import training_pb2 as pb
from batchyard.v1 import training_pb2_grpc


class TrainingServicer(training_pb2_grpc.TrainingServiceServicer):
    """Each method converts, calls once and converts back."""

    def __init__(self, jobs: Jobs, explaining: Explaining) -> None:
        self._jobs = jobs
        self._explaining = explaining

    async def CreateTrainingJob(self, request: pb.CreateTrainingJobRequest, context: Any) -> pb.TrainingJob:  # noqa: N802, D102
        spec, user = convert.spec_mapping(request.spec), convert.user(context.invocation_metadata())
        return convert.training_job(await self._jobs.create(spec, request.request_id, user, request.tags))

    async def GetTrainingJob(self, request: pb.GetTrainingJobRequest, context: Any) -> pb.TrainingJob:  # noqa: N802, D102
        return convert.training_job(await self._jobs.get(names.parse_job(request.name)))

    async def ListTrainingJobs(  # noqa: N802, D102
        self, request: pb.ListTrainingJobsRequest, context: Any
    ) -> pb.ListTrainingJobsResponse:
        listing = Listing(states=convert.states(request.states))
        page = await self._jobs.list(request.page_size, request.page_token, listing)
        jobs = [convert.training_job(job) for job in page.jobs]
        return pb.ListTrainingJobsResponse(training_jobs=jobs, next_page_token=page.next_page_token)

    async def CancelTrainingJob(self, request: pb.CancelTrainingJobRequest, context: Any) -> pb.TrainingJob:  # noqa: N802, D102
        return convert.training_job(await self._jobs.cancel(names.parse_job(request.name)))

    async def PauseTrainingJob(self, request: pb.PauseTrainingJobRequest, context: Any) -> pb.TrainingJob:  # noqa: N802, D102
        return convert.training_job(await self._jobs.pause(names.parse_job(request.name)))

    async def ResumeTrainingJob(self, request: pb.ResumeTrainingJobRequest, context: Any) -> pb.TrainingJob:  # noqa: N802, D102
        return convert.training_job(await self._jobs.resume(names.parse_job(request.name)))

    async def AnnotateTrainingJob(  # noqa: N802, D102
        self, request: pb.AnnotateTrainingJobRequest, context: Any
    ) -> pb.TrainingJob:
        note = request.note if request.HasField("note") else None
        job = names.parse_job(request.name)
        return convert.training_job(await self._jobs.annotate(job, request.add_tags, request.remove_tags, note))

    async def ExplainTrainingJob(  # noqa: N802, D102
        self, request: pb.ExplainTrainingJobRequest, context: Any
    ) -> pb.TrainingJobExplanation:
        return convert_explanation.explanation(await self._explaining.explain(names.parse_job(request.name)))

    async def WatchTrainingJob(  # noqa: N802, D102
        self, request: pb.WatchTrainingJobRequest, context: Any
    ) -> AsyncIterator[pb.WatchTrainingJobResponse]:
        job, kinds = names.parse_job(request.name), convert.event_kinds(request.kinds)
        async for event in self._jobs.watch(job, request.cursor, kinds, request.history_only):
            failpoint("stream.before_send")
            yield convert.watch_response(event)
            failpoint("stream.after_send")

"""What the fake service holds, and how a test drives it."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from batchyard.client.events import ENDED, KINDS, Detail
from batchyard.client.tensors import Array
from batchyard.client.testing.details import abort
from batchyard.oip import messages
from batchyard.v1 import training_pb2
from batchyard.v1.lineage_pb2 import Lineage
from batchyard.v1.models_pb2 import Model, ModelVersion
from batchyard.v1.shadow_pb2 import ShadowComparison
from batchyard.v1.shift_pb2 import ModelShift, SampledInputs
from batchyard.v1.training_pb2 import (
    StateChange,
    StepMetrics,
    TrainingJob,
    TrainingJobExplanation,
    WatchTrainingJobResponse,
)


class Holdings:
    """Jobs, models and calls, and what a test does with them."""

    def __init__(self) -> None:
        self.jobs: dict[str, TrainingJob] = {}
        self.explanations: dict[str, TrainingJobExplanation] = {}
        """Resource name of a job to what is said of it."""
        self.models: dict[str, Model] = {}
        self.versions: dict[str, ModelVersion] = {}
        self.functions: dict[str, Callable[[Array], Array]] = {}
        """Inference model name to what answers for it."""
        self.configs: dict[str, messages.ModelConfig] = {}
        """Inference model name to its configuration."""
        self.statistics: dict[str, messages.ModelStatistics] = {}
        """Inference model name to what it has counted."""
        self.shifts: dict[str, ModelShift] = {}
        """Inference model name to the shift that is told of it."""
        self.shadows: dict[str, ShadowComparison] = {}
        """Inference model name to what is told of its shadow."""
        self.lineages: dict[str, Lineage] = {}
        """Resource name of a version to what is told of where it comes from."""
        self.sampled: dict[str, SampledInputs] = {}
        """Inference model name to its sampled inputs."""
        self.calls: list[tuple[str, Any, dict[str, str]]] = []
        """(method, request, metadata) of every call that arrived."""
        self.break_streams_after: int | None = None
        """Events after which a watch stream breaks with UNAVAILABLE; None: never."""
        self._events: dict[str, list[WatchTrainingJobResponse]] = defaultdict(list)
        self._requests: dict[str, str] = {}
        self._failures: dict[str, deque[Status]] = defaultdict(deque)
        self.changed = threading.Condition()
        """Told of every event, and when the service ends."""

    def emit(self, job: str, *details: Detail, attempt: int = 1) -> None:
        """Stores events of a job and wakes those who watch it; state changes and metrics change the job, too."""
        with self.changed:
            for detail in details:
                self._apply(self.jobs[job], detail)
                response = WatchTrainingJobResponse(cursor=f"{job}:{len(self._events[job]) + 1}")
                response.event.attempt = attempt
                response.event.time.GetCurrentTime()
                getattr(response.event, _field(detail)).CopyFrom(detail)
                self._events[job].append(response)
            self.changed.notify_all()

    def fail_next(self, method: str, code: grpc.StatusCode, message: str, *details: Message, times: int = 1) -> None:
        """Makes the next calls of a method fail with google.rpc details."""
        status = Status(code=code.value[0], message=message)
        for detail in details:
            packed = AnyMessage()
            packed.Pack(detail)
            status.details.append(packed)
        self._failures[method] += [status] * times

    def add_version(self, version: ModelVersion, **aliases: int) -> None:
        """Publishes a version named models/{model}/versions/{n}."""
        model, _, number = version.name.partition("/versions/")
        self.versions[version.name] = version
        entry = self.models.setdefault(model, Model(name=model))
        entry.latest_version = max(entry.latest_version, int(number))
        entry.aliases.update(aliases)

    @staticmethod
    def _apply(job: TrainingJob, detail: Detail) -> None:
        if isinstance(detail, StateChange):
            job.state, job.model_version = detail.state, detail.model_version
            job.failure.CopyFrom(detail.failure)
        if isinstance(detail, StepMetrics):
            job.progress.step, job.progress.steps, job.progress.loss = detail.step, detail.steps, detail.loss

    def arrived(self, method: str, request: Any, context: grpc.ServicerContext) -> None:
        """Notes a call, and fails it when the test has asked for that."""
        metadata = {key: str(value) for key, value in context.invocation_metadata()}
        self.calls.append((method, request, metadata))
        if self._failures[method]:
            context.abort_with_status(rpc_status.to_status(self._failures[method].popleft()))

    def create(self, request: training_pb2.CreateTrainingJobRequest) -> TrainingJob:
        """The job for a request_id, made when it is new."""
        with self.changed:
            name = self._requests.get(request.request_id) or f"trainingJobs/{request.spec.name}-{len(self.jobs) + 1}"
            if request.request_id:
                self._requests[request.request_id] = name
            job = TrainingJob(name=name, spec=request.spec, state=TrainingJob.QUEUED, tags=sorted(request.tags))
            return self.jobs.setdefault(name, job)

    def stream(self, request: training_pb2.WatchTrainingJobRequest, context: Any) -> Iterator[WatchTrainingJobResponse]:
        """The events after a cursor."""
        at, sent = int(request.cursor.rpartition(":")[2] or 0), 0
        while True:
            with self.changed:
                events, ended = self._events[request.name], self.jobs[request.name].state in ENDED
                while len(events) <= at and not ended and not request.history_only and context.is_active():
                    self.changed.wait(0.1)
                    ended = self.jobs[request.name].state in ENDED
                fresh = events[at:]
            for response in fresh:
                at += 1
                if request.kinds and KINDS[type(_detail(response))] not in request.kinds:
                    continue
                if self.break_streams_after == sent:
                    abort(context, grpc.StatusCode.UNAVAILABLE, "the connection breaks")
                sent += 1
                yield response
            if not fresh:
                return


def _detail(response: WatchTrainingJobResponse) -> Any:
    return getattr(response.event, str(response.event.WhichOneof("kind")))


def _field(detail: Detail) -> str:
    """The field of TrainingEvent that holds such a detail."""
    fields = training_pb2.TrainingEvent.DESCRIPTOR.oneofs_by_name["kind"].fields
    return next(f.name for f in fields if f.message_type is type(detail).DESCRIPTOR)

"""A whole control plane on port 0, on a fake cluster, and what tests say to it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from batchyard.artifact.manifest import MANIFEST, CertificateRecord, Evaluated, FoldEntry, Manifest, Signature
from batchyard.cluster.executor import Attempt
from batchyard.cluster.fake_executor import FakeExecutor
from batchyard.control.app import ControlPlane
from batchyard.control.clock import Clock
from batchyard.control.settings import Settings
from batchyard.training.events import Checkpointed, Published, StepMetrics
from batchyard.v1 import models_pb2_grpc, spec_pb2, training_pb2, training_pb2_grpc

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For tests that look into the file, or copy it."""
PATIENCE = 30.0
"""Seconds after which a condition that is awaited will not come true."""


@dataclass
class Service:
    """A running control plane and stubs for it."""

    plane: ControlPlane
    cluster: FakeExecutor
    training: Any
    models: Any

    async def submit(self, **changes: Any) -> str:
        """Creates a job; returns its id."""
        job = await self.training.CreateTrainingJob(training_pb2.CreateTrainingJobRequest(spec=a_spec(**changes)))
        return job_id(job)

    async def get(self, job: str) -> training_pb2.TrainingJob:
        request = training_pb2.GetTrainingJobRequest(name=f"trainingJobs/{job}")
        found = await self.training.GetTrainingJob(request)
        assert isinstance(found, training_pb2.TrainingJob)
        return found

    async def pause(self, job: str) -> training_pb2.TrainingJob:
        request = training_pb2.PauseTrainingJobRequest(name=f"trainingJobs/{job}")
        found = await self.training.PauseTrainingJob(request)
        assert isinstance(found, training_pb2.TrainingJob)
        return found

    async def resume(self, job: str) -> training_pb2.TrainingJob:
        request = training_pb2.ResumeTrainingJobRequest(name=f"trainingJobs/{job}")
        found = await self.training.ResumeTrainingJob(request)
        assert isinstance(found, training_pb2.TrainingJob)
        return found

    async def cancel(self, job: str) -> training_pb2.TrainingJob:
        request = training_pb2.CancelTrainingJobRequest(name=f"trainingJobs/{job}")
        found = await self.training.CancelTrainingJob(request)
        assert isinstance(found, training_pb2.TrainingJob)
        return found

    def watch(self, job: str, **request: Any) -> Any:
        name = f"trainingJobs/{job}"
        return self.training.WatchTrainingJob(training_pb2.WatchTrainingJobRequest(name=name, **request))

    async def history(self, job: str, **request: Any) -> list[training_pb2.WatchTrainingJobResponse]:
        return [response async for response in self.watch(job, history_only=True, **request)]

    async def until_state(self, job: str, state: str) -> training_pb2.TrainingJob:
        """The job, once it has come to this state."""
        async with asyncio.timeout(PATIENCE):
            async for response in self.watch(job, kinds=[training_pb2.STATE_CHANGE]):
                if state_name(response.event.state_change.state) == state:
                    return await self.get(job)
        raise AssertionError(f"{job} ended without having been {state}")

    async def until_started(self, job: str, number: int = 1) -> Attempt:
        """The job's newest attempt, once the cluster has it and it is the `number`-th or a later one."""
        await until(lambda: self.cluster.runs(job) and self._newest(job).id.number >= number)
        return self._newest(job)

    def _newest(self, job: str) -> Attempt:
        return [attempt for attempt in self.cluster.started if attempt.id.job == job][-1]


@asynccontextmanager
async def control_plane(
    folder: Path, cluster: FakeExecutor, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[Service]:
    """A control plane on free ports, without an inference plane; stopped at the end."""
    chosen = Settings(
        data_dir=folder, grpc="127.0.0.1:0", http="127.0.0.1:0", inference=False, executor="local", **settings
    )
    plane = ControlPlane(chosen, executor=cluster, clock=clock)
    try:
        await plane.start()
        async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
            training: Any = training_pb2_grpc.TrainingServiceStub(channel)
            models: Any = models_pb2_grpc.ModelServiceStub(channel)
            yield Service(plane, cluster, training, models)
    finally:
        await plane.stop()


def a_spec(**changes: Any) -> spec_pb2.TrainingJobSpec:
    """A small legal spec; `changes` are fields of TrainingJobSpec."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "model": spec_pb2.ModelSpec(architecture="mlp"),
        "data": spec_pb2.DataSpec(dataset="digits"),
        "steps": 100,
        "retries": 0,
    }
    return spec_pb2.TrainingJobSpec(**(fields | changes))


def publishing(model: str = "digits", **changes: Any) -> dict[str, Any]:
    """The change to a spec that has it published."""
    return {"publish": spec_pb2.PublishSpec(model=model, **changes)}


def a_step(step: int, loss: float = 1.0, **changes: Any) -> StepMetrics:
    values: dict[str, Any] = {"accuracy": 0.5, "learning_rate": 0.1, "samples_per_second": 100.0, "step_seconds": 0.1}
    return StepMetrics(step=step, steps=100, loss=loss, **(values | changes))


def a_checkpoint(step: int) -> Checkpointed:
    return Checkpointed(step=step, uri=f"file:///checkpoints/{step}", sha256="0" * 64, bytes=10)


async def points(service: Service, job: str) -> list[int]:
    """The steps of the job's metric points, as a new reader gets them."""
    return [r.event.step_metrics.step for r in await service.history(job, kinds=[training_pb2.STEP_METRICS])]


async def until_points(service: Service, job: str, steps: list[int]) -> None:
    """Returns once these are the job's metric points."""
    deadline = time.monotonic() + PATIENCE
    while (found := await points(service, job)) != steps:
        assert time.monotonic() < deadline, f"{found} found; expected {steps}"
        await asyncio.sleep(0.005)


def artifact(attempt: Attempt, **changes: Any) -> Published:
    """Writes the manifest of what this attempt publishes, and says so."""
    values: dict[str, Any] = {
        "model": attempt.spec["publish"]["model"],
        "job": attempt.id.job,
        "attempt": attempt.id.number,
        "created": 1.5,
        "spec": attempt.spec,
        "seed": attempt.spec["seed"],
        "libraries": {"torch": "2.13.0"},
        "dataset": "digits",
        "dataset_sha256": "0" * 64,
        "classes": ("zero", "one"),
        "parameter_count": 10,
        "inputs": (Signature(name="pixels", datatype="FP32", shape=(-1, 1, 8, 8)),),
        "outputs": (Signature(name="logits", datatype="FP32", shape=(-1, 2)),),
        "population_statistics": "alg2",
        "fold_report": (FoldEntry(layer="norm1", status="folded", into="linear1", beta=(0.5,), gamma=(-1.0,)),),
        "certificate": CertificateRecord(passed=True, max_error=1e-6, bound=1e-5, samples=2, digest="1" * 64),
        "evaluated": Evaluated(accuracy=0.96, loss=0.1, samples=100),
    }
    text = Manifest(**(values | changes)).to_json().encode()
    folder = Path(attempt.artifact_uri.removeprefix("file://"))
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_bytes(text)
    return Published(artifact_uri=attempt.artifact_uri, manifest_sha256=hashlib.sha256(text).hexdigest())


def job_id(job: training_pb2.TrainingJob) -> str:
    return job.name.removeprefix("trainingJobs/")


def state_name(state: training_pb2.TrainingJob.State.ValueType) -> str:
    return training_pb2.TrainingJob.State.Name(state)


def kinds(responses: list[training_pb2.WatchTrainingJobResponse]) -> list[str]:
    """What each event is; a change of state by its state."""
    events = [response.event for response in responses]
    return [
        state_name(e.state_change.state) if e.WhichOneof("kind") == "state_change" else str(e.WhichOneof("kind"))
        for e in events
    ]


async def until(condition: Callable[[], bool]) -> None:
    """Returns once the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.005)


@dataclass(frozen=True)
class Refusal:
    """What a call was refused with."""

    code: grpc.StatusCode
    reason: str
    message: str
    metadata: dict[str, str]
    fields: dict[str, str]


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """The details of an error of ours."""
    trailer: Any = error.trailing_metadata() or ()
    status = status_pb2.Status.FromString(dict(trailer)["grpc-status-details-bin"])
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    assert info.domain == "batchyard"
    fields = {violation.field: violation.description for violation in bad.field_violations}
    return Refusal(error.code(), info.reason, status.message, dict(info.metadata), fields)


@asynccontextmanager
async def refused() -> AsyncIterator[list[Refusal]]:
    """The call inside is refused; the list then holds its refusal."""
    found: list[Refusal] = []
    try:
        yield found
    except grpc.aio.AioRpcError as error:
        found.append(refusal(error))
    assert found, "the call was not refused"

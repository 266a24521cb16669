"""How what a job publishes becomes a version, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchyard.artifact.manifest import CertificateRecord
from batchyard.artifact.reader import read_certified_manifest
from batchyard.cluster.executor import Attempt, AttemptId
from batchyard.control.attempts import Publication, Try
from batchyard.control.publishing import inspect
from batchyard.control.records import Job
from batchyard.control.states import State
from batchyard.training.events import Ended, Event, LogLine, Published
from batchyard.training.spec import TrainingJobSpec
from batchyard.v1 import models_pb2, training_pb2
from tests.control.harness import Service, a_step, artifact, publishing

SUCCESS = Ended(outcome="succeeded")


async def test_what_a_job_published_becomes_a_version_with_its_alias(service: Service) -> None:
    job = await service.submit(**publishing("digits", alias="production"))
    attempt = await service.until_started(job)
    service.cluster.report(job, a_step(100), artifact(attempt), SUCCESS)
    ended = await service.until_state(job, "SUCCEEDED")
    assert ended.model_version == "models/digits/versions/1"
    assert (await service.history(job))[-1].event.state_change.model_version == "models/digits/versions/1"
    model = await service.models.GetModel(models_pb2.GetModelRequest(name="models/digits"))
    assert dict(model.aliases) == {"production": 1}


async def test_published_in_one_report_and_ended_in_another_is_a_version_too(service: Service) -> None:
    job = await service.submit(**publishing())
    attempt = await service.until_started(job)
    service.cluster.report(job, artifact(attempt), LogLine(level="INFO", text="written"))
    watch = service.watch(job, kinds=[training_pb2.LOG_LINE])
    await watch.read()
    watch.cancel()
    service.cluster.report(job, SUCCESS)
    assert (await service.until_state(job, "SUCCEEDED")).model_version == "models/digits/versions/1"


def nothing(attempt: Attempt) -> tuple[Event, ...]:
    return ()


def another_digest(attempt: Attempt) -> tuple[Event, ...]:
    return (Published(artifact_uri=artifact(attempt).artifact_uri, manifest_sha256="0" * 64),)


def nowhere(attempt: Attempt) -> tuple[Event, ...]:
    return (Published(artifact_uri="file:///nowhere/at/all", manifest_sha256="0" * 64),)


def without_certificate(attempt: Attempt) -> tuple[Event, ...]:
    certificate = CertificateRecord(passed=False, max_error=1.0, bound=1e-5, samples=2, digest="1" * 64)
    return (artifact(attempt, certificate=certificate),)


def another_model(attempt: Attempt) -> tuple[Event, ...]:
    return (artifact(attempt, model="other"),)


def another_spec(attempt: Attempt) -> tuple[Event, ...]:
    return (artifact(attempt, spec={"name": "other"}),)


@pytest.mark.parametrize(
    ("publish", "cause"),
    [
        (nothing, "ended without publishing"),
        (another_digest, "its sha256 is"),
        (nowhere, "cannot be read"),
        (without_certificate, "certificate did not pass"),
        (another_model, "expected 'digits'"),
        (another_spec, "another spec"),
    ],
)
async def test_an_artifact_that_is_not_what_it_should_be_is_no_version(
    service: Service, publish: Any, cause: str
) -> None:
    job = await service.submit(**publishing())
    attempt = await service.until_started(job)
    service.cluster.report(job, *publish(attempt), SUCCESS)
    failed = await service.until_state(job, "FAILED")
    assert cause in failed.failure.cause
    assert (await service.models.ListModels(models_pb2.ListModelsRequest())).models == []


def test_a_spec_from_before_a_key_was_added_is_still_that_of_its_job(tmp_path: Path) -> None:
    identity = AttemptId(job="old-1", number=1)
    spec = TrainingJobSpec.from_mapping(
        {"name": "old", "model": {"architecture": "mlp"}, "data": {"dataset": "digits"}, "steps": 1}
        | {"publish": {"model": "digits"}}
    ).to_mapping()
    attempt = Attempt(id=identity, spec=spec, artifact_uri=f"file://{tmp_path}/artifact")
    older = {**spec, "workers": {key: value for key, value in spec["workers"].items() if key != "placement"}}
    job = Job(number=1, id="old-1", spec=older, state=State.RUNNING, create_time=1.0, attempt=1)
    found = inspect(Try(job=job, attempt=attempt), artifact(attempt), read_certified_manifest)
    assert isinstance(found, Publication), found

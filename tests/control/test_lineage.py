"""LineageService, over gRPC: from what is served back to the data."""

from __future__ import annotations

import dataclasses
from typing import Any

import grpc
import pytest

from batchyard.artifact.manifest import Manifest
from batchyard.control.ledger import Unit
from batchyard.control.store import models as store
from batchyard.training.events import Ended
from batchyard.v1 import lineage_pb2, lineage_pb2_grpc
from tests.control.harness import Service, a_checkpoint, a_step, artifact, publishing, refused


async def lineage(service: Service, name: str) -> lineage_pb2.Lineage:
    async with grpc.aio.insecure_channel(service.plane.grpc_address) as channel:
        stub: Any = lineage_pb2_grpc.LineageServiceStub(channel)
        found = await stub.GetLineage(lineage_pb2.GetLineageRequest(name=name))
    assert isinstance(found, lineage_pb2.Lineage)
    return found


async def train(service: Service, seed: int = 1, **publish: Any) -> str:
    """Trains and publishes the next version of digits; returns the job's id."""
    job = await service.submit(seed=seed, **publishing(**publish))
    attempt = await service.until_started(job)
    published = artifact(attempt, files={"model.safetensors": "7" * 64})
    service.cluster.report(job, a_step(80), a_checkpoint(80), a_step(100), published, Ended(outcome="succeeded"))
    await service.until_state(job, "SUCCEEDED")
    return job


async def derive(service: Service, origin: str, *sources: int) -> None:
    """Registers the next version of digits, of another origin, made from versions of digits."""
    first = (await service.plane.registry.get_version("digits", 1)).manifest
    names = tuple(f"models/digits/versions/{number}" for number in sources)
    manifest: Manifest = dataclasses.replace(first, origin=origin, sources=names, job="", attempt=0)

    def register(unit: Unit) -> None:
        store.add_version(unit.connection, manifest, f"file:///{origin}", "2" * 64, unit.now)

    await service.plane.registry._ledger.write(register)


async def test_a_trained_version_leads_back_to_its_job_spec_seed_code_and_data(service: Service) -> None:
    job = await train(service, seed=7, alias="production")
    found = await lineage(service, "models/digits@production")
    (version,) = found.versions
    assert found.name == version.version.name == "models/digits/versions/1"
    assert (list(version.deployment.aliases), version.deployment.latest) == (["production"], True)
    assert version.version.certificate.digest == "1" * 64
    assert version.version.weights_sha256 == "7" * 64
    assert (version.checkpoint.step, version.checkpoint.sha256) == (80, "0" * 64)
    assert (version.training_job.name, version.attempt) == (f"trainingJobs/{job}", 1)
    assert version.training_job.progress.step == 100
    assert version.training_job.spec.seed == version.version.seed == 7
    assert dict(version.version.libraries) == {"torch": "2.13.0"}
    assert version.version.dataset_sha256 == "0" * 64


async def test_what_a_version_was_made_from_follows_each_version_once(service: Service) -> None:
    first, second = await train(service), await train(service)
    await derive(service, "recalibrated", 1)
    await derive(service, "ensemble", 2, 3, 1)
    found = (await lineage(service, "models/digits/versions/4")).versions
    assert [each.version.name for each in found] == [f"models/digits/versions/{n}" for n in (4, 2, 3, 1)]
    assert [list(each.version.sources) for each in found] == [
        [f"models/digits/versions/{n}" for n in (2, 3, 1)],
        [],
        ["models/digits/versions/1"],
        [],
    ]
    assert [each.training_job.name for each in found] == ["", f"trainingJobs/{second}", "", f"trainingJobs/{first}"]
    assert [each.deployment.latest for each in found] == [True, False, False, False]
    assert not found[0].HasField("checkpoint")


async def test_an_imported_version_has_no_job_and_nothing_before_it(service: Service) -> None:
    await train(service)
    await derive(service, "imported")
    (found,) = (await lineage(service, "models/digits/versions/2")).versions
    assert (found.version.origin, found.version.training_job, found.attempt) == ("imported", "", 0)
    assert not found.HasField("training_job")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("models/other/versions/1", "MODEL_NOT_FOUND"), ("models/digits@nobody", "ALIAS_NOT_FOUND")],
)
async def test_what_does_not_exist_has_no_lineage(service: Service, name: str, reason: str) -> None:
    await train(service)
    async with refused() as found:
        await lineage(service, name)
    assert (found[0].code, found[0].reason) == (grpc.StatusCode.NOT_FOUND, reason)

"""A data folder that was moved or copied."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import pytest

from batchyard.cluster.fake_executor import FakeExecutor
from batchyard.training.events import Checkpointed, Ended, PhaseChange
from batchyard.v1 import models_pb2
from tests.control.harness import Service, artifact, control_plane, publishing


@pytest.fixture
def database_url() -> None:
    """The file in the data folder, which goes with it."""


async def published(service: Service) -> str:
    """A model of one version; returns its artifact's URI."""
    job = await service.submit(**publishing())
    attempt = await service.until_started(job)
    service.cluster.report(job, artifact(attempt), Ended(outcome="succeeded"))
    await service.until_state(job, "SUCCEEDED")
    return attempt.artifact_uri


async def paused(service: Service, data: Path) -> str:
    """A job that waits to go on from a checkpoint; returns its id."""
    job = await service.submit()
    attempt = await service.until_started(job)
    folder = data / "checkpoints" / job / f"{10:012}-1-{'0' * 32}"
    folder.mkdir(parents=True)
    done = Checkpointed(step=10, uri=f"{attempt.checkpoint_uri}/{folder.name}", sha256="0" * 64, bytes=10)
    service.cluster.report(job, PhaseChange(phase="training"), done)
    await service.until_state(job, "RUNNING")
    await service.pause(job)
    await service.until_state(job, "PAUSED")
    return job


async def uri(service: Service) -> str:
    request = models_pb2.GetModelVersionRequest(name="models/digits/versions/1")
    return str((await service.models.GetModelVersion(request)).artifact_uri)


async def test_its_models_are_found_where_it_is_now(service: Service, tmp_path: Path) -> None:
    before = await published(service)
    await service.plane.stop()
    moved = (tmp_path / "data").rename(tmp_path / "moved 100%_")
    async with control_plane(moved, FakeExecutor(workers=2)) as again:
        assert await uri(again) == f"file://{moved}/artifacts/{before.rpartition('/')[2]}"


async def test_a_job_of_a_copy_goes_on_in_the_copy(service: Service, tmp_path: Path) -> None:
    job = await paused(service, tmp_path / "data")
    await service.plane.stop()
    copy, cluster = copytree(tmp_path / "data", tmp_path / "copy"), FakeExecutor(workers=2)
    async with control_plane(copy, cluster) as again:
        await again.resume(job)
        attempt = await again.until_started(job, number=2)
    assert attempt.checkpoint_uri == f"file://{copy}/checkpoints/{job}"
    assert str(attempt.resume_from).startswith(f"{attempt.checkpoint_uri}/{10:012}")


async def test_what_lies_elsewhere_keeps_its_place(tmp_path: Path) -> None:
    elsewhere = f"file://{tmp_path}/store/artifacts"
    async with control_plane(tmp_path / "data", FakeExecutor(workers=2), artifacts=elsewhere) as service:
        before = await published(service)
    moved = (tmp_path / "data").rename(tmp_path / "moved")
    async with control_plane(moved, FakeExecutor(workers=2)) as again:
        assert await uri(again) == before

"""RecalibrateModel, over gRPC: a real version, a real task, a new version that nobody has promoted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import s3fs  # type: ignore[import-untyped]
from numpy.typing import NDArray

from batchyard.artifact.reader import read_certified_manifest, verify
from batchyard.client.recalibration import recalibration_requests
from batchyard.control.ledger import Unit
from batchyard.control.store import models as store
from batchyard.v1 import models_pb2
from batchyard.v1.recalibration_pb2 import RecalibrateModelRequest, RecalibrationSpec
from tests.control.harness import Service, refused

JOB: dict[str, Any] = {
    "name": "digits",
    "model": {"architecture": "mlp", "hidden": [16]},
    "data": {"dataset": "digits", "batch_size": 61},
    "steps": 10,
    "publish": {"model": "digits"},
}
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), np.uint8)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A real artifact's URI and its manifest's digest."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "job.json").write_text(json.dumps(JOB))
    command = [sys.executable, "-m", "batchyard.training", str(folder / "job.json"), "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return str(folder / "artifact"), json.loads(done.stdout.splitlines()[-1])["manifest_sha256"]


@pytest.fixture
async def digits(service: Service, published: tuple[str, str]) -> Service:
    """A control plane that has the version, as production."""
    uri, digest = published

    def register(unit: Unit) -> None:
        store.add_version(unit.connection, read_certified_manifest(uri, digest), uri, digest, unit.now)
        store.set_alias(unit.connection, "digits", "production", 1)

    await service.plane.registry._ledger.write(register)
    return service


async def recalibrate(
    service: Service, name: str = "models/digits@production", inputs: NDArray[Any] = PIXELS, prior: float = 16.0
) -> models_pb2.ModelVersion:
    found = await service.models.RecalibrateModel(recalibration_requests(name, inputs, prior), timeout=120)
    assert isinstance(found, models_pb2.ModelVersion)
    return found


async def test_a_recalibrated_version_is_registered_with_its_lineage_and_no_alias_moves(digits: Service) -> None:
    version = await recalibrate(digits)
    assert version.name == "models/digits/versions/2"
    assert (version.origin, list(version.sources)) == ("recalibrated", ["models/digits/versions/1"])
    assert (version.recalibration.prior, version.recalibration.samples) == (16.0, 40)
    assert len(version.recalibration.inputs_sha256) == 64
    assert version.certificate.passed
    assert version.evaluated_samples == 0
    assert version.training_job == ""
    assert [(entry.layer, entry.status) for entry in version.fold_report] == [("norm1", "folded")]
    verify(Path(version.artifact_uri.removeprefix("file://")), version.manifest_sha256)

    model = await digits.models.GetModel(models_pb2.GetModelRequest(name="models/digits"))
    assert (model.latest_version, dict(model.aliases)) == (2, {"production": 1})
    assert await digits.models.GetModelVersion(models_pb2.GetModelVersionRequest(name=version.name)) == version


async def test_a_model_whose_newest_version_answers_is_not_recalibrated_unseen(
    service: Service, published: tuple[str, str]
) -> None:
    uri, digest = published

    def register(unit: Unit) -> None:
        store.add_version(unit.connection, read_certified_manifest(uri, digest), uri, digest, unit.now)

    await service.plane.registry._ledger.write(register)
    async with refused() as found:
        await recalibrate(service, "models/digits/versions/1")
    assert (found[0].code, found[0].reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_DEFAULT_ALIAS")
    assert "batchyard alias digits production 1" in found[0].message


@pytest.mark.parametrize(
    ("name", "prior", "field"),
    [("models/digits", 1.0, "spec.name"), ("models/digits@production", -1.0, "spec.prior"),
     ("models/digits@production", float("nan"), "spec.prior")],
)  # fmt: skip
async def test_a_wrong_name_or_prior_is_refused_by_field(digits: Service, name: str, prior: float, field: str) -> None:
    async with refused() as found:
        await recalibrate(digits, name, prior=prior)
    assert found[0].code == grpc.StatusCode.INVALID_ARGUMENT
    assert list(found[0].fields) == [field]


async def test_inputs_of_another_shape_are_refused_and_leave_nothing_behind(digits: Service, tmp_path: Path) -> None:
    async with refused() as found:
        await recalibrate(digits, inputs=np.zeros((40, 1, 9, 9), np.uint8))
    assert found[0].code == grpc.StatusCode.INVALID_ARGUMENT
    assert "[40, 1, 9, 9]" in found[0].fields["inputs"]
    assert not list((tmp_path / "data" / "tasks").iterdir())
    model = await digits.models.GetModel(models_pb2.GetModelRequest(name="models/digits"))
    assert model.latest_version == 1


async def test_a_store_that_cannot_be_reached_is_no_fault_of_the_version(
    service: Service, published: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, digest = published
    away = {"ENDPOINT_URL": "http://127.0.0.1:1", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "MAX_ATTEMPTS": "1"}
    for name, value in away.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    s3fs.S3FileSystem.clear_instance_cache()  # of servers of other tests

    def register(unit: Unit) -> None:
        store.add_version(unit.connection, read_certified_manifest(uri, digest), "s3://gone/digits", digest, unit.now)
        store.set_alias(unit.connection, "digits", "production", 1)

    await service.plane.registry._ledger.write(register)
    async with refused() as found:
        await recalibrate(service)
    assert (found[0].code, found[0].reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_AWAY")
    assert "models/digits/versions/1 cannot be fetched: s3://gone/digits" in found[0].message
    assert "nothing has changed: try again" in found[0].message


async def test_a_stream_that_is_cut_short_is_refused(digits: Service) -> None:
    async def only_the_spec() -> AsyncIterator[RecalibrateModelRequest]:
        yield RecalibrateModelRequest(spec=RecalibrationSpec(name="models/digits@production"))

    async with refused() as found:
        await digits.models.RecalibrateModel(only_the_spec())
    assert list(found[0].fields) == ["file"]

    async def nothing() -> AsyncIterator[RecalibrateModelRequest]:
        return
        yield

    async with refused() as found:
        await digits.models.RecalibrateModel(nothing())
    assert list(found[0].fields) == ["spec"]

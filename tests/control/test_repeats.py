"""request_id for versions that no job trains: repeated, a call makes nothing more; for something else it is refused."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from batchyard.artifact.reader import read_certified_manifest
from batchyard.control.ledger import Unit
from batchyard.control.store import models as store
from batchyard.control.torch_tasks import TorchTasks
from batchyard.v1 import models_pb2
from batchyard.v1.exchange_pb2 import CreateEnsembleRequest, FileHeader, ImportModelVersionRequest, ImportSpec
from batchyard.v1.recalibration_pb2 import RecalibrateModelRequest, RecalibrationSpec
from bench.small_artifact import SmallNetwork, publish
from tests.control.harness import Service, refused

ID = str(uuid.uuid4())


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would have needed torch is written here instead; the modules that were run."""
    ran: list[str] = []

    async def run(self: TorchTasks, module: str, order: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        ran.append(module.rpartition(".")[2])
        uri = Path(order["artifact_uri"].removeprefix("file://"))
        return {"manifest_sha256": publish(uri, SmallNetwork(), order["model"])}

    monkeypatch.setattr(TorchTasks, "run", run)
    return ran


@pytest.fixture
async def digits(service: Service, tmp_path: Path) -> Service:
    """A control plane with two versions of digits, the first as production."""

    def register(unit: Unit) -> None:
        for number in (1, 2):
            uri = tmp_path / f"digits-{number}"
            digest = publish(uri, SmallNetwork(seed=number), "digits")
            manifest = read_certified_manifest(str(uri), digest)
            store.add_version(unit.connection, manifest, str(uri), digest, unit.now)
        store.set_alias(unit.connection, "digits", "production", 1)

    await service.plane.registry._ledger.write(register)
    return service


def upload(request: Any, name: str, content: bytes = b"abc") -> list[Any]:
    header = FileHeader(path=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
    return [request(file=header), request(chunk=content)]


async def import_(service: Service, content: bytes = b"abc", **changes: Any) -> models_pb2.ModelVersion:
    spec = ImportSpec(**{"model": "mine", "request_id": ID, **changes})
    parts = [ImportModelVersionRequest(spec=spec), *upload(ImportModelVersionRequest, "onnx", content)]
    found = await service.models.ImportModelVersion(iter(parts))
    assert isinstance(found, models_pb2.ModelVersion)
    return found


async def ensemble(service: Service, *members: str, request_id: str = ID) -> models_pb2.ModelVersion:
    given = members or ("models/digits/versions/1", "models/digits/versions/2")
    found = await service.models.CreateEnsemble(
        CreateEnsembleRequest(model="two", members=given, request_id=request_id)
    )
    assert isinstance(found, models_pb2.ModelVersion)
    return found


async def recalibrate(service: Service, prior: float = 1.0) -> models_pb2.ModelVersion:
    spec = RecalibrationSpec(name="models/digits@production", prior=prior, request_id=ID)
    parts = [RecalibrateModelRequest(spec=spec), *upload(RecalibrateModelRequest, "inputs")]
    found = await service.models.RecalibrateModel(iter(parts))
    assert isinstance(found, models_pb2.ModelVersion)
    return found


@pytest.mark.parametrize("call", [import_, ensemble, recalibrate])
async def test_a_call_that_is_repeated_makes_one_version(digits: Service, tasks: list[str], call: Any) -> None:
    first = await call(digits)
    assert await call(digits) == first
    assert len(tasks) == 1


async def test_calls_at_the_same_time_make_one_version(digits: Service, tasks: list[str]) -> None:
    made = await asyncio.gather(*(ensemble(digits) for _ in range(4)))
    assert {version.name for version in made} == {"models/two/versions/1"}
    assert tasks == ["ensembling"]


async def test_without_an_id_every_call_makes_a_version(digits: Service, tasks: list[str]) -> None:
    names = [(await ensemble(digits, request_id="")).name for _ in range(2)]
    assert names == ["models/two/versions/1", "models/two/versions/2"]


async def test_a_task_that_failed_may_be_repeated(
    digits: Service, tasks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    working = TorchTasks.run

    async def fails(*_: Any) -> dict[str, Any]:
        raise OSError("no memory")

    monkeypatch.setattr(TorchTasks, "run", fails)
    with pytest.raises(grpc.aio.AioRpcError):
        await ensemble(digits)
    monkeypatch.setattr(TorchTasks, "run", working)
    assert (await ensemble(digits)).name == "models/two/versions/1"


async def other_content(service: Service) -> None:
    await import_(service, content=b"other")


async def other_alias(service: Service) -> None:
    await import_(service, alias="production")


async def other_kind(service: Service) -> None:
    await ensemble(service)


@pytest.mark.parametrize(
    ("other", "fields"),
    [
        (other_content, ["files.onnx"]),
        (other_alias, ["spec.alias"]),
        (other_kind, ["alias", "files.onnx", "members", "method", "model", "spec.alias", "spec.model"]),
    ],
)
async def test_another_request_under_the_same_id_is_told_what_differs(
    digits: Service, tasks: list[str], other: Any, fields: list[str]
) -> None:
    first = await import_(digits)
    async with refused() as told:
        await other(digits)
    assert (told[0].code, told[0].reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert sorted(told[0].fields) == fields
    assert first.name in told[0].message
    assert tasks == ["importing"]


async def test_another_prior_under_the_same_id_is_told(digits: Service, tasks: list[str]) -> None:
    await recalibrate(digits)
    async with refused() as told:
        await recalibrate(digits, prior=2.0)
    assert told[0].fields == {"spec.prior": "1.0 there, 2.0 given"}


async def test_an_id_that_is_no_uuid_is_refused(digits: Service) -> None:
    async with refused() as told:
        await import_(digits, request_id="again")
    assert "'again' given; expected a UUID" in told[0].fields["spec.request_id"]
    async with refused() as told:
        await ensemble(digits, request_id="again")
    assert "request_id" in told[0].fields

"""Import and export at the API: what a broken upload is told."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import grpc
import pytest

from batchyard.v1.exchange_pb2 import (
    CreateEnsembleRequest,
    ExportModelVersionRequest,
    FileHeader,
    ImportModelVersionRequest,
    ImportSpec,
)
from tests.control.harness import Service, refused

Part = ImportModelVersionRequest


def header(path: str = "weights", content: bytes = b"abc", **changes: Any) -> Part:
    values: dict[str, Any] = {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return Part(file=FileHeader(**(values | changes)))


SPEC = Part(spec=ImportSpec(model="mine"))
ABC = Part(chunk=b"abc")


@pytest.mark.parametrize(
    ("parts", "field", "words"),
    [
        ([], "spec", "missing"),
        ([header(), ABC], "spec", "missing; expected it in the first message"),
        ([SPEC, SPEC], "part", "spec given"),
        ([SPEC, ABC], "chunk", "before any file"),
        ([SPEC, header("../weights")], "file.path", "'../weights' given; expected one of onnx, samples, weights"),
        ([SPEC, header(), ABC, header()], "file.path", "given twice"),
        ([SPEC, header(size=1 << 40)], "file.size", "expected at most 4294967296"),
        ([SPEC, header(sha256="abc")], "file", "sha256 in hexadecimal"),
        ([SPEC, header(), ABC, ABC], "weights", "more than the 3 bytes"),
        ([SPEC, header(size=4), ABC], "weights", "3 bytes arrived; its header tells 4"),
        ([SPEC, header(), Part(chunk=b"abd")], "weights", "damaged on its way"),
        ([SPEC, header("samples"), ABC], "file", "expected one of weights and onnx"),
        ([SPEC, header(), ABC, header("onnx"), ABC], "file", "['onnx', 'weights'] given"),
        ([Part(spec=ImportSpec(model="No!"))], "model", "'No!' given; expected 1 to 40 characters"),
        ([Part(spec=ImportSpec(model="mine", alias="-"))], "alias", "'-' given"),
    ],
)
async def test_an_upload_that_is_not_whole_is_refused_by_field(
    service: Service, tmp_path: Path, parts: list[Part], field: str, words: str
) -> None:
    async with refused() as told:
        await service.models.ImportModelVersion(iter(parts))
    assert told[0].code is grpc.StatusCode.INVALID_ARGUMENT
    assert words in told[0].fields[field]
    assert not list((tmp_path / "data" / "tasks").glob("*"))


async def test_an_export_names_its_version_and_its_format(service: Service) -> None:
    async with refused() as told:
        request = ExportModelVersionRequest(name="models/mine/versions/1", format=ExportModelVersionRequest.ONNX)
        [_ async for _ in service.models.ExportModelVersion(request)]
    assert told[0].code is grpc.StatusCode.NOT_FOUND
    async with refused() as told:
        [_ async for _ in service.models.ExportModelVersion(ExportModelVersionRequest(name="models/mine@production"))]
    assert "expected one of ONNX, TORCH_EXPORT, TRITON, TRITON_PYTHON" in told[0].fields["format"]


async def test_an_ensemble_is_of_several_that_exist(service: Service) -> None:
    async with refused() as told:
        await service.models.CreateEnsemble(CreateEnsembleRequest(model="six", members=["models/a@production"]))
    assert told[0].fields["members"] == "1 given; expected 2 to 32"
    async with refused() as told:
        await service.models.CreateEnsemble(CreateEnsembleRequest(model="six", members=["models/a@b", "a"]))
    assert "'a' given" in told[0].fields["members[1]"]
    async with refused() as told:
        members = ["models/a/versions/1", "models/b/versions/1"]
        await service.models.CreateEnsemble(CreateEnsembleRequest(model="six", members=members))
    assert told[0].code is grpc.StatusCode.NOT_FOUND

"""A real Triton serves an export, and answers as ONNX Runtime does.

Runs where a Triton is installed: `make bench-serving` makes the environment, and BATCHYARD_TRITON_VENV names another
(a virtual environment that holds nvidia-pytriton, onnxruntime and numpy<2).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchyard.artifact.reader import read_certified_manifest
from batchyard.control.ledger import Unit
from batchyard.control.store import models as store
from batchyard.v1.exchange_pb2 import ExportModelVersionRequest
from bench.small_artifact import SmallNetwork, publish
from tests.control.harness import Service

ROOT = Path(__file__).parents[2]
TRITON = Path(os.environ.get("BATCHYARD_TRITON_VENV", ROOT / ".cache" / "bench-serving" / "triton"))


@pytest.fixture
async def digits(service: Service, tmp_path: Path) -> Service:
    """A control plane with one version of digits."""
    uri = tmp_path / "digits"
    digest = publish(uri, SmallNetwork(seed=1), "digits")

    def register(unit: Unit) -> None:
        store.add_version(unit.connection, read_certified_manifest(str(uri), digest), str(uri), digest, unit.now)

    await service.plane.registry._ledger.write(register)
    return service


async def exported(service: Service, folder: Path) -> Path:
    """The Triton model repository of the one version."""
    form = ExportModelVersionRequest.TRITON_PYTHON  # the Triton that a package index has knows no other backend
    request = ExportModelVersionRequest(name="models/digits/versions/1", format=form)
    path = folder
    async for response in service.models.ExportModelVersion(request):
        if response.WhichOneof("part") == "file":
            path = folder / response.file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        else:
            path.write_bytes(path.read_bytes() + response.chunk)
    return folder


@pytest.mark.skipif(
    not list(TRITON.glob("lib/python3.*/site-packages/pytriton/tritonserver/bin/tritonserver")),
    reason="no Triton in .cache/bench-serving/triton or BATCHYARD_TRITON_VENV: `make bench-serving` installs one",
)
async def test_a_real_triton_serves_the_export_and_answers_as_onnx_runtime_does(
    digits: Service, tmp_path: Path
) -> None:
    repository = await exported(digits, tmp_path / "repository")
    command = [sys.executable, str(ROOT / "tools" / "check_triton_export.py"), str(TRITON), str(repository)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("digits: largest relative error")
    assert done.stdout.rstrip().endswith("labels right")

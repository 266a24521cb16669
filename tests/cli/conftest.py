from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from batchyard.cli.main import batchyard
from batchyard.client.testing import FakeService
from batchyard.v1.models_pb2 import Certificate, FoldEntry, ModelVersion, TensorSignature

Command = Callable[..., Result]

JOB = "name: try\nmodel: {architecture: mlp}\ndata: {dataset: digits}\nsteps: 10\n"


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as service:
        yield service


@pytest.fixture
def run(service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `batchyard ARGUMENTS` in a folder of its own, with the fake service where the environment says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCHYARD_CONTROL", service.address)
    monkeypatch.setenv("BATCHYARD_INFERENCE", service.address)
    monkeypatch.delenv("BATCHYARD_TOKEN_FILE", raising=False)
    monkeypatch.delenv("BATCHYARD_TLS_CA", raising=False)
    (tmp_path / "job.yaml").write_text(JOB)

    def call(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(batchyard, [str(a) for a in arguments], input=stdin, prog_name="batchyard")

    return call


@pytest.fixture
def digit_model(service: FakeService) -> str:
    """A model of 2 x 2 grey pictures whose logits are the pixels."""
    version = ModelVersion(
        name="models/tiny/versions/2",
        training_job="trainingJobs/try-1",
        architecture="mlp",
        dataset="digits",
        accuracy_unfolded=0.9875,
        classes=["zero", "one", "two", "three"],
        inputs=[TensorSignature(name="pixels", datatype="FP32", shape=[-1, 1, 2, 2])],
        outputs=[TensorSignature(name="logits", datatype="FP32", shape=[-1, 4])],
        fold_report=[FoldEntry(layer="norm0", status="folded", into="linear0")],
        certificate=Certificate(passed=True, max_error=1.5e-6, bound=1e-4, samples=256, digest="ab"),
    )
    service.add_version(version, production=2)
    service.functions["tiny"] = lambda pixels: pixels.reshape(len(pixels), -1).astype(np.float32)
    return "tiny"

"""docs/client.md: its examples, run in their order against a service that does what they expect."""

import re
import threading
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import batchyard.client
from batchyard.client import AsyncClient, Client, StateChange, StepMetrics, TrainingJob
from batchyard.client.testing import FakeService, bad_request
from batchyard.v1.models_pb2 import ModelVersion, TensorSignature

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "client.md").read_text(), re.DOTALL)


class Trainer(FakeService):
    """Trains each job as soon as it is there, and refuses jobs without steps."""

    def create(self, request: Any) -> TrainingJob:
        job = super().create(request)
        metrics = StepMetrics(step=100, steps=100, loss=0.125)
        ended = StateChange(state=TrainingJob.SUCCEEDED, model_version="models/digits/versions/1")
        threading.Thread(target=self.emit, args=(job.name, metrics, ended)).start()
        return job

    def arrived(self, method: str, request: Any, context: Any) -> None:
        if method == "CreateTrainingJob" and not request.spec.steps:
            details = bad_request(steps="0 given; expected 1 or more")
            self.fail_next(method, grpc.StatusCode.INVALID_ARGUMENT, "the job cannot be run", details)
        super().arrived(method, request, context)


def test_every_example_works_as_written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with Trainer() as service:
        _serve_digits(service)
        for kind in (Client, AsyncClient):
            here = partial(kind, service.address, service.address)
            monkeypatch.setattr(batchyard.client, kind.__name__, here)
        names: dict[str, Any] = {}
        for example in EXAMPLES:
            exec(example, names)
    assert capsys.readouterr().out.splitlines() == [
        "step 100: loss 0.125",
        "SUCCEEDED",
        "models/digits/versions/1",
        "3 versions",
        "[0 0]",
        "NOT_FOUND",
        "steps: 0 given; expected 1 or more",
    ]


def _serve_digits(service: FakeService) -> None:
    pixels = TensorSignature(name="pixels", datatype="FP32", shape=[-1, 1, 8, 8])
    logits = TensorSignature(name="logits", datatype="FP32", shape=[-1, 10])
    service.add_version(ModelVersion(name="models/digits/versions/1", inputs=[pixels], outputs=[logits]))
    service.functions["digits"] = lambda images: np.zeros((len(images), 10), np.float32)

"""Models, versions and aliases; messages as plain values; the public names."""

import json
import math

import pytest

import batchyard.client
from batchyard.client import Client, LayerStatistics, NotFoundError, StateChange, TrainingJob, plain
from batchyard.client.testing import FakeService
from batchyard.v1.models_pb2 import ModelVersion
from batchyard.v1.training_pb2 import Progress


def test_models_and_versions_are_listed_over_pages(client: Client, service: FakeService) -> None:
    for number in range(1, 121):
        service.add_version(ModelVersion(name=f"models/m/versions/{number}"))
    service.add_version(ModelVersion(name="models/a/versions/1"))
    assert [model.name for model in client.models()] == ["models/a", "models/m"]
    assert [version.name for version in client.versions("m")] == [f"models/m/versions/{n}" for n in range(120, 0, -1)]


def test_a_version_is_found_by_number_or_alias(client: Client, service: FakeService) -> None:
    service.add_version(ModelVersion(name="models/m/versions/1", seed=5), production=1)
    assert client.version("m/versions/1").seed == client.version("m@production").seed == 5
    assert client.model("models/m").aliases == {"production": 1}


def test_an_alias_is_moved(client: Client, service: FakeService) -> None:
    for number in (1, 2):
        service.add_version(ModelVersion(name=f"models/m/versions/{number}"))
    assert client.set_alias("m", "production", 2).aliases == {"production": 2}
    with pytest.raises(NotFoundError):
        client.set_alias("m", "production", 3)


def test_a_message_becomes_plain_values() -> None:
    job = TrainingJob(name="trainingJobs/a", state=TrainingJob.RUNNING, progress=Progress(step=2**40, loss=math.nan))
    job.spec.model.hidden.extend([1, 2])
    job.create_time.FromJsonString("2026-11-23T06:00:00.5Z")
    job.progress.remaining.FromMilliseconds(2500)
    values = plain(job)
    assert values["state"] == "RUNNING"
    assert values["progress"] == {
        "phase": "PHASE_UNSPECIFIED",
        "step": 2**40,
        "steps": 0,
        "loss": "NaN",
        "remaining": 2.5,
    }
    assert values["spec"]["model"] == {"architecture": "", "hidden": [1, 2]}
    assert values["create_time"] == "2026-11-23T06:00:00.500Z"
    assert "failure" not in values
    json.dumps(values, allow_nan=False)


def test_maps_lists_and_unknown_enum_values_become_plain() -> None:
    version = ModelVersion(libraries={"torch": "2.13.0"})
    version.inputs.add(name="x", shape=[-1, 2])
    assert plain(version)["libraries"] == {"torch": "2.13.0"}
    assert plain(version)["inputs"] == [{"name": "x", "datatype": "", "shape": [-1, 2]}]
    assert plain(StateChange(state=77))["state"] == 77  # type: ignore[arg-type]
    layers = LayerStatistics(layers=[LayerStatistics.Layer(name="a", p15=-math.inf)])
    assert plain(layers)["layers"][0]["p15"] == "-Infinity"


PUBLIC = """
AccessError AlreadyExistsError AsyncClient BatchyardError Checkpointed Client Comparison ConfigurationError
DeadlineExceededError Detail Evaluation Event FieldViolation InferResult InvalidRequestError JobFileError
LayerStatistics Lineage LogLine Model ModelShift ModelVersion NotFoundError OutOfRangeError OverloadedError PhaseChange
PreconditionError Prediction Resumed RpcError ServiceError ServingSettings Settings ShadowComparison StateChange
StepMetrics TensorError TrainingJob TrainingJobExplanation TrainingJobSpec TransferError UnavailableError
UnsupportedError WaitTimeoutError compare_weights plain read_job read_settings state_name
"""

METHODS = """
annotate cancel close delete_alias explain from_environment healthy infer job jobs lineage logs model models pause
predict recalibrate resume set_alias set_serving_settings submit version versions wait watch
"""


def test_the_public_names_are_these() -> None:
    assert batchyard.client.__all__ == PUBLIC.split()
    missing = [name for name in batchyard.client.__all__ if not hasattr(batchyard.client, name)]
    assert missing == []


def test_the_clients_methods_are_these() -> None:
    assert sorted(name for name in vars(Client) if not name.startswith("_")) == METHODS.split()

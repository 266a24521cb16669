"""model lineage."""

import json
from typing import Any

import pytest

from batchyard.cli import lineage
from batchyard.client import Client
from batchyard.client.testing import FakeService
from batchyard.v1.lineage_pb2 import Deployment, Lineage, VersionLineage
from batchyard.v1.models_pb2 import ModelVersion
from batchyard.v1.training_pb2 import Checkpointed, TrainingJob


@pytest.fixture
def ensemble(service: FakeService, digit_model: str) -> Lineage:
    """tiny/2 as a job has trained it, and tiny/4, made from it twice over."""
    trained = VersionLineage(
        deployment=Deployment(aliases=["production"]),
        version=service.versions["models/tiny/versions/2"],
        training_job=TrainingJob(name="trainingJobs/try-1", state=TrainingJob.SUCCEEDED, user="ada"),
        attempt=2,
        checkpoint=Checkpointed(step=80, uri="s3://bucket/checkpoints/try-1/80", sha256="cd" * 32),
    )
    trained.training_job.spec.steps = trained.training_job.progress.step = 100
    trained.version.origin, trained.version.seed, trained.version.dataset_sha256 = "trained", 7, "ef" * 32
    trained.version.libraries["torch"] = "2.13.0"
    made = VersionLineage(deployment=Deployment(latest=True))
    made.version.CopyFrom(ModelVersion(name="models/tiny/versions/4", origin="ensemble"))
    made.version.sources[:] = ["models/tiny/versions/2", "models/tiny/versions/2"]
    service.add_version(made.version)
    found = Lineage(name=made.version.name, versions=[made, trained])
    service.lineages[found.name] = found
    service.lineages["models/tiny@production"] = Lineage(name=trained.version.name, versions=[trained])
    return found


def test_in_a_pipe_every_fact_is_a_line_with_its_version(run: Any, ensemble: Lineage) -> None:
    lines = run("model", "lineage", "tiny").stdout.splitlines()
    assert "tiny/4\tdeployment\tthe newest version" in lines
    assert "tiny/4\tmade from\ttiny/2, tiny/2" in lines
    assert "tiny/2\tdeployment\ttiny@production" in lines
    certificate = "passed; largest error 1.5e-06, allowed 0.0001, 256 samples, sha256 ab"
    assert f"tiny/2\tcertificate\t{certificate}" in lines
    kept = f"step 80, s3://bucket/checkpoints/try-1/80, sha256 {'cd' * 32}"
    assert f"tiny/2\tcheckpoint\t{kept}; trained to step 100" in lines
    assert "tiny/2\tjob\ttry-1 of ada, SUCCEEDED, attempt 2" in lines
    assert "tiny/2\tspec.steps\t100" in lines
    assert "tiny/2\tseed\t7" in lines
    assert "tiny/2\tcode\ttorch 2.13.0" in lines
    assert f"tiny/2\tdataset\tdigits, sha256 {'ef' * 32}" in lines


def test_people_see_a_tree_in_which_no_version_is_told_twice(
    run: Any, ensemble: Lineage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage, "for_people", lambda: True)
    lines = run("model", "lineage", "tiny").stdout.splitlines()
    assert lines[0] == "tiny/4"
    assert lines[-1] == "    tiny/2 (see above)"
    assert "    tiny/2" in lines
    assert "      seed         7" in lines
    assert f"      dataset      digits, sha256 {'ef' * 6}" in lines


def test_an_alias_names_the_version_and_json_is_the_message(run: Any, ensemble: Lineage) -> None:
    found = json.loads(run("model", "lineage", "tiny@production", "--json").stdout)
    assert found["name"] == "models/tiny/versions/2"
    (version,) = found["versions"]
    assert version["training_job"]["spec"]["steps"] == 100
    assert version["version"]["dataset_sha256"] == "ef" * 32


def test_a_job_without_a_record_is_named(run: Any, service: FakeService, ensemble: Lineage) -> None:
    service.lineages["models/tiny@production"].versions[0].ClearField("training_job")
    assert "\tjob\ttry-1, of which the service has no record\n" in run("model", "lineage", "tiny@production").stdout


def test_the_client_gives_the_message(service: FakeService, ensemble: Lineage) -> None:
    with Client(service.address, service.address) as client:
        assert client.lineage("tiny/versions/4") == ensemble

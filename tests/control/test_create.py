"""CreateTrainingJob and GetTrainingJob, over gRPC."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from batchyard.cluster.executor import Capacity
from batchyard.cluster.fake_executor import FakeExecutor
from batchyard.training.spec import TrainingJobSpec
from batchyard.v1 import spec_pb2, training_pb2
from tests.control.harness import Service, a_spec, control_plane, job_id, on_sqlite, refused, until


async def create(service: Service, spec: spec_pb2.TrainingJobSpec, request_id: str = "") -> training_pb2.TrainingJob:
    request = training_pb2.CreateTrainingJobRequest(spec=spec, request_id=request_id)
    job = await service.training.CreateTrainingJob(request)
    assert isinstance(job, training_pb2.TrainingJob)
    return job


async def test_a_new_job_is_queued_and_named_after_its_spec(service: Service) -> None:
    job = await create(service, a_spec(name="tiny"))
    assert job.state == training_pb2.TrainingJob.QUEUED
    assert job.name.startswith("trainingJobs/tiny-")
    assert job.attempt == 0
    assert job.HasField("create_time")
    assert not job.HasField("end_time")


async def test_fields_that_were_not_set_take_their_defaults(service: Service) -> None:
    job = await create(service, a_spec())
    assert list(job.spec.model.hidden) == [100, 100, 100]
    assert job.spec.data.batch_size == 60
    assert job.spec.optimizer.learning_rate == 0.1
    assert not job.spec.HasField("publish")


async def test_zero_is_a_value_and_not_a_field_that_was_not_set(service: Service) -> None:
    evaluate = spec_pb2.EvaluateSpec(every_steps=0)
    metrics = spec_pb2.MetricsSpec(activation_statistics=False)
    job = await create(service, a_spec(evaluate=evaluate, metrics=metrics))
    assert job.spec.evaluate.every_steps == 0
    assert not job.spec.metrics.activation_statistics


async def test_the_executor_gets_the_spec_that_the_yaml_of_the_same_keys_would_give(service: Service) -> None:
    spec = a_spec(seed=2**40, model=spec_pb2.ModelSpec(architecture="mlp", hidden=[5, 7]))
    job = await create(service, spec)
    attempt = await service.until_started(job_id(job))
    mapping = {
        "name": "tiny",
        "model": {"architecture": "mlp", "hidden": [5, 7]},
        "data": {"dataset": "digits"},
        "steps": 100,
        "retries": 0,
        "seed": 2**40,
    }
    assert attempt.spec == TrainingJobSpec.from_mapping(mapping).to_mapping()


async def test_everything_wrong_with_a_spec_is_said_at_once(service: Service) -> None:
    spec = spec_pb2.TrainingJobSpec(
        name="Tiny",
        model=spec_pb2.ModelSpec(architecture="mlq", hidden=[0]),
        data=spec_pb2.DataSpec(dataset="cifar", batch_size=-1),
        optimizer=spec_pb2.OptimizerSpec(learning_rate=float("nan")),
        steps=0,
        workers=spec_pb2.WorkersSpec(count=0),
    )
    async with refused() as found:
        await create(service, spec, request_id="not-a-uuid")
    assert found[0].code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(found[0].fields) == {
        "spec.name",
        "spec.model.architecture",
        "spec.model.hidden[0]",
        "spec.data.dataset",
        "spec.data.batch_size",
        "spec.optimizer.learning_rate",
        "spec.steps",
        "spec.workers.count",
        "request_id",
    }
    assert "did you mean 'mlp'?" in found[0].fields["spec.model.architecture"]


async def test_an_empty_request_says_which_keys_are_missing(service: Service) -> None:
    async with refused() as found:
        await service.training.CreateTrainingJob(training_pb2.CreateTrainingJobRequest())
    assert set(found[0].fields) == {"spec.name", "spec.model", "spec.data", "spec.steps"}


async def test_a_batch_smaller_than_the_number_of_workers_is_refused(service: Service) -> None:
    model, data = spec_pb2.ModelSpec(architecture="mlp", norm="none"), spec_pb2.DataSpec(dataset="digits", batch_size=1)
    spec = a_spec(model=model, data=data, workers=spec_pb2.WorkersSpec(count=2))
    async with refused() as found:
        await create(service, spec)
    assert "raise it, or lower workers.count" in found[0].fields["spec.data.batch_size"]


@pytest.mark.parametrize(
    ("has", "asked", "field", "advice"),
    [
        (Capacity(workers=2, gpus=0), {"count": 3}, "spec.workers.count", "the cluster has 2: lower it to 2"),
        (Capacity(workers=2, gpus=0), {"gpus_per_worker": 1}, "spec.workers.gpus_per_worker", "set it to 0"),
        (Capacity(workers=2, gpus=1), {"count": 2, "gpus_per_worker": 1}, "spec.workers.count", "the cluster has 1"),
    ],
)
async def test_more_than_the_cluster_has_is_refused(
    service: Service, has: Capacity, asked: dict[str, Any], field: str, advice: str
) -> None:
    service.cluster.has = has
    async with refused() as found:
        await create(service, a_spec(workers=spec_pb2.WorkersSpec(**asked)))
    assert advice in found[0].fields[field]


async def test_the_same_request_gives_the_same_job(service: Service) -> None:
    request_id = str(uuid.uuid4())
    first = await create(service, a_spec(), request_id)
    await service.until_started(job_id(first))
    again = await create(service, a_spec(), request_id)
    assert again.name == first.name
    assert again.state != training_pb2.TrainingJob.QUEUED  # the job as it is now
    everything = await service.training.ListTrainingJobs(training_pb2.ListTrainingJobsRequest())
    assert len(everything.training_jobs) == 1


async def test_a_default_written_out_is_the_same_spec(service: Service) -> None:
    request_id = str(uuid.uuid4())
    first = await create(service, a_spec(), request_id)
    spelled_out = a_spec(data=spec_pb2.DataSpec(dataset="digits", batch_size=60), seed=0)
    assert (await create(service, spelled_out, request_id)).name == first.name


@on_sqlite
async def test_a_spec_from_before_there_was_a_key_is_the_same_as_one_with_its_default(
    service: Service, tmp_path: Path
) -> None:
    request_id = str(uuid.uuid4())
    first = await create(service, a_spec(), request_id)
    await service.until_started(job_id(first))
    with closing(sqlite3.connect(tmp_path / "data" / "batchyard.db")) as database, database:
        database.execute("UPDATE jobs SET spec = json_remove(spec, '$.preemptible', '$.workers.hung_after_seconds')")
    assert (await create(service, a_spec(), request_id)).name == first.name


async def test_the_same_request_with_another_spec_says_what_differs(service: Service) -> None:
    request_id = str(uuid.uuid4())
    first = await create(service, a_spec(), request_id)
    other = a_spec(steps=200, optimizer=spec_pb2.OptimizerSpec(learning_rate=0.5), publish={"model": "digits"})
    async with refused() as found:
        await create(service, other, request_id)
    assert found[0].code is grpc.StatusCode.ALREADY_EXISTS
    assert found[0].reason == "REQUEST_ID_REUSED"
    assert found[0].metadata["name"] == first.name
    fields = "optimizer.learning_rate,publish.model,publish.statistics,steps"
    assert found[0].metadata["fields"] == fields
    assert "steps: 100 there, 200 given" in found[0].message
    assert found[0].fields == {
        "spec.optimizer.learning_rate": "0.1 there, 0.5 given",
        "spec.publish.model": "nothing there, 'digits' given",
        "spec.publish.statistics": "nothing there, 'alg2' given",
        "spec.steps": "100 there, 200 given",
    }


async def test_without_a_request_id_every_call_makes_a_job(service: Service) -> None:
    assert (await create(service, a_spec())).name != (await create(service, a_spec())).name


async def test_twenty_calls_at_once_with_one_request_id_make_one_job(service: Service) -> None:
    request_id = str(uuid.uuid4())
    request = training_pb2.CreateTrainingJobRequest(spec=a_spec(), request_id=request_id)
    calls = [service.training.CreateTrainingJob(request) for _ in range(20)]
    assert len({(await call).name for call in calls}) == 1


async def test_a_caller_that_hangs_up_at_once_leaves_a_job_that_runs(service: Service) -> None:
    request = training_pb2.CreateTrainingJobRequest(spec=a_spec(), request_id=str(uuid.uuid4()))
    service.training.CreateTrainingJob(request).cancel()
    job = await service.training.CreateTrainingJob(request)
    await until(lambda: service.cluster.runs(job_id(job)))


async def test_a_job_that_does_not_exist_is_not_found(service: Service) -> None:
    async with refused() as found:
        await service.get("nothing-1")
    assert found[0].code is grpc.StatusCode.NOT_FOUND
    assert found[0].reason == "JOB_NOT_FOUND"
    assert "trainingJobs/nothing-1" in found[0].message


@pytest.mark.parametrize("name", ["", "tiny", "trainingJobs/", "trainingJobs/../x", "models/tiny", "trainingJobs/A"])
async def test_a_name_that_is_none_is_refused(service: Service, name: str) -> None:
    async with refused() as found:
        await service.training.GetTrainingJob(training_pb2.GetTrainingJobRequest(name=name))
    assert found[0].code is grpc.StatusCode.INVALID_ARGUMENT
    assert "expected trainingJobs/{id}" in found[0].fields["name"]


async def test_a_cluster_that_does_not_answer_is_unavailable_and_not_a_secret_spilled(tmp_path: Path) -> None:
    class Unreachable(FakeExecutor):
        def capacity(self) -> Capacity:
            raise ConnectionError("password: hunter2")

    async with control_plane(tmp_path, Unreachable()) as service:
        async with refused() as found:
            await create(service, a_spec())
        assert found[0].code is grpc.StatusCode.UNAVAILABLE
        assert found[0].reason == "CLUSTER_UNAVAILABLE"
        assert "hunter2" not in found[0].message


async def test_a_users_own_network_is_refused_until_its_package_is_allowed(tmp_path: Path) -> None:
    model = spec_pb2.ModelSpec(architecture="python:my_networks.small:make")
    async with control_plane(tmp_path, FakeExecutor(), allow_python=("other",)) as service, refused() as found:
        await create(service, a_spec(model=model))
    expected = "start the service with --allow-python my_networks"
    assert expected in found[0].fields["spec.model.architecture"]
    async with control_plane(tmp_path, FakeExecutor(), allow_python=("my_networks",)) as service:
        job = await create(service, a_spec(model=model))
        attempt = await service.until_started(job_id(job))
    assert attempt.allow_python == ("my_networks",)

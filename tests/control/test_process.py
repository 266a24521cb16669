"""`python -m batchyard.control`: how it comes up, how it goes, and what it says to those it refuses."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import stat
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from batchyard.control.__main__ import main
from batchyard.control.lease import LEASE_SECONDS
from batchyard.v1 import models_pb2_grpc, spec_pb2, training_pb2, training_pb2_grpc
from tests.cluster.test_disk_full import full_disk
from tests.control.harness import a_spec, kinds
from tests.control.processes import (
    FREE_PORTS,
    PATIENCE,
    Service,
    alive,
    refused,
    serving,
    until_serving,
    wait_until,
    working_on,
)

ALONE = "--no-inference"


def training(service: Service) -> Any:
    return training_pb2_grpc.TrainingServiceStub(grpc.insecure_channel(service.facts()["grpc"]))


def submit(service: Service, **changes: Any) -> str:
    request = training_pb2.CreateTrainingJobRequest(spec=a_spec(**changes))
    return str(training(service).CreateTrainingJob(request).name)


def watch(service: Service, job: str, **request: Any) -> Any:
    stub = training(service)
    return stub.WatchTrainingJob(training_pb2.WatchTrainingJobRequest(name=job, **request), wait_for_ready=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_answers_and_leaves_nothing_at_a_clean_stop(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path) as service:
        facts = service.facts()
        assert stat.S_IMODE((tmp_path / "control.json").stat().st_mode) == 0o600
        assert set(facts) == {
            "pid",
            "started",
            "grpc",
            "http",
            "inference_grpc",
            "inference_http",
            "inference_pid",
            "tls",
            "token_file",
        }
        for address in (facts["grpc"], facts["inference_grpc"]):
            with grpc.insecure_channel(address) as channel:
                until_serving(channel)
        with urllib.request.urlopen(f"http://{facts['http']}/healthz", timeout=10) as answer:
            assert answer.status == 200
        assert service.stop(number) == 0
        assert not working_on(tmp_path)
        assert not (tmp_path / "control.json").exists()


def test_the_control_process_loads_no_torch(tmp_path: Path) -> None:
    with serving(tmp_path, ALONE) as service:
        submit(service)
        maps = Path(f"/proc/{service.process.pid}/maps").read_text()
    assert "libtorch" not in maps


def test_a_second_control_plane_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path, ALONE) as service:
        status, said = refused("--data-dir", str(tmp_path), *FREE_PORTS, ALONE)
        assert status == 3
        assert (
            f"in use by another control plane (process {service.process.pid} on {socket.gethostname()}, since" in said
        )
        assert "batchyard down" in said
        assert "--standby" in said
        assert service.facts()["pid"] == service.process.pid
        submit(service)


def test_a_standby_takes_over_when_the_first_is_killed_and_jobs_go_on(tmp_path: Path) -> None:
    with serving(tmp_path, ALONE) as service:
        job = submit(service, steps=3000, metrics=spec_pb2.MetricsSpec(every_steps=20))
        standby = Service(tmp_path, ALONE, "--standby")
        try:
            wait_until(lambda: "standing by" in (tmp_path / "log").read_text())
            seen: list[training_pb2.WatchTrainingJobResponse] = []
            for response in watch(service, job):
                seen.append(response)
                if response.event.step_metrics.step >= 20:
                    break
            assert service.facts()["pid"] == service.process.pid
            service.kill()
            killed = time.monotonic()
            standby.until_ready()
            assert time.monotonic() - killed < LEASE_SECONDS, "it waited for the lease, not for the lock"
            seen += list(watch(standby, job, cursor=seen[-1].cursor))
            assert standby.stop() == 0
        finally:
            standby.kill()
    assert kinds(seen)[-1] == "SUCCEEDED"
    assert {response.event.attempt for response in seen} == {0, 1}, "the attempt did not go on"
    steps = [response.event.step_metrics.step for response in seen if response.event.HasField("step_metrics")]
    assert steps == [1, *range(20, 3001, 20)]


def test_a_standby_that_is_asked_to_stop_goes_without_a_trace(tmp_path: Path) -> None:
    with serving(tmp_path, ALONE) as service:
        standby = Service(tmp_path, ALONE, "--standby")
        try:
            wait_until(lambda: "standing by" in (tmp_path / "log").read_text())
            assert standby.stop() == 0
        finally:
            standby.kill()
        assert service.facts()["pid"] == service.process.pid
        submit(service)


def test_a_control_plane_whose_lock_file_was_removed_is_still_not_doubled(tmp_path: Path) -> None:
    with serving(tmp_path, ALONE) as service:
        (tmp_path / "control.lock").unlink()
        status, said = refused("--data-dir", str(tmp_path), *FREE_PORTS, ALONE)
        assert status == 3
        assert f"in use by another control plane (process {service.process.pid} on" in said
        submit(service)


def test_a_job_that_gave_way_ends_like_one_that_was_left_alone(tmp_path: Path) -> None:
    two = spec_pb2.WorkersSpec(count=2)
    modest = {"steps": 600, "workers": two, "metrics": spec_pb2.MetricsSpec(every_steps=20)}
    with serving(tmp_path, ALONE) as service:
        preempted = submit(service, **modest)
        next(r for r in watch(service, preempted) if r.event.step_metrics.step >= 40)
        urgent = submit(service, steps=20, workers=two, priority=5)
        assert kinds(list(watch(service, urgent)))[-1] == "SUCCEEDED"
        assert kinds(list(watch(service, preempted)))[-1] == "SUCCEEDED"
        alone = submit(service, **modest)
        assert kinds(list(watch(service, alone)))[-1] == "SUCCEEDED"
        found = training(service).ExplainTrainingJob(training_pb2.ExplainTrainingJobRequest(name=preempted))
        assert [(each.outcome, each.preempted_by) for each in found.attempts] == [("paused", urgent), ("succeeded", "")]
        assert points(service, preempted) == points(service, alone)


def points(service: Service, job: str) -> list[tuple[int, float, float]]:
    """Step, loss and accuracy of every metric point, as a new reader gets them."""
    seen = [response.event.step_metrics for response in watch(service, job, kinds=[training_pb2.STEP_METRICS])]
    return [(each.step, each.loss, each.accuracy) for each in seen]


def test_a_full_disk_refuses_jobs_with_a_reason_and_loses_none_and_no_event(tmp_path: Path) -> None:
    with serving(tmp_path, ALONE) as service:
        job = submit(service, steps=3000, metrics=spec_pb2.MetricsSpec(every_steps=20))
        next(r for r in watch(service, job) if r.event.step_metrics.step >= 20)
        with full_disk(service.process.pid, 1):
            with pytest.raises(grpc.RpcError) as refused_:
                submit(service)
            assert refused_.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "its disk is full or fails. Make room" in str(refused_.value.details())
            (events,) = (tmp_path / "executor" / "attempts").glob("*/events.jsonl")
            reported = events.stat().st_size
            wait_until(lambda: events.stat().st_size > 2 * reported)  # training goes on, and nobody stores that
            assert list(watch(service, job, history_only=True))
        seen = list(watch(service, job))
        with closing(sqlite3.connect(tmp_path / "batchyard.db")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert service.stop() == 0
    assert kinds(seen)[-1] == "SUCCEEDED"
    assert {response.event.attempt for response in seen} == {0, 1}
    steps = [response.event.step_metrics.step for response in seen if response.event.HasField("step_metrics")]
    assert steps == [1, *range(20, 3001, 20)]


def test_a_control_plane_that_was_replaced_ends_and_leaves_its_jobs(tmp_path: Path) -> None:
    with serving(tmp_path, ALONE) as service:
        job = submit(service, steps=100_000)
        next(r for r in watch(service, job) if r.event.HasField("step_metrics"))
        with closing(sqlite3.connect(tmp_path / "batchyard.db")) as database, database:
            database.execute("UPDATE leases SET epoch = epoch + 1, pid = 1, host = 'elsewhere'")
        assert service.process.wait(PATIENCE) == 4
        assert "is process 1 on elsewhere" in (tmp_path / "log").read_text()
        assert working_on(tmp_path), "the job's workers were ended"


def test_a_port_that_is_taken_stops_the_start_and_says_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for flag, other in (("--grpc", "--http"), ("--http", "--grpc")):
            status, said = refused("--data-dir", str(tmp_path), flag, address, other, "127.0.0.1:0", ALONE)
            assert status == 2
            assert f"{flag} {address} cannot be bound" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--grpc", "0.0.0.0:0"], "give --tls-cert, --tls-key and --token-file"),
        (["--http", "192.0.2.1:0"], "can be reached from other machines"),
        (["--grpc", "localhost"], "expected HOST:PORT"),
        (["--grpc", "127.0.0.1:99999"], "expected HOST:PORT"),
        (["--workers", "0"], "--workers 0: expected 1 or more"),
        (["--datasets", "/nowhere"], "--datasets /nowhere: no such folder"),
        (["--tls-cert", "/nowhere"], "--tls-cert and --tls-key go together"),
        (["--token-file", "/nowhere"], "token file /nowhere"),
        (["--executor", "local", "--ray-address", "auto"], "--ray-address goes with --executor ray"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["--data-dir", str(tmp_path / "data"), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path, ALONE) as service:
        assert service.stop() == 0
    with sqlite3.connect(tmp_path / "batchyard.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    status, said = refused("--data-dir", str(tmp_path), *FREE_PORTS, ALONE)
    assert status == 1
    assert "written by a newer version" in said


def test_a_job_goes_on_when_the_control_plane_is_killed_and_nothing_is_lost_or_repeated(tmp_path: Path) -> None:
    changes = {"steps": 150, "workers": spec_pb2.WorkersSpec(count=2), "metrics": spec_pb2.MetricsSpec(every_steps=5)}
    seen: list[training_pb2.WatchTrainingJobResponse] = []
    with serving(tmp_path, ALONE) as service:
        job = submit(service, **changes)
        waiting = submit(service, workers=spec_pb2.WorkersSpec(count=2))
        training(service).CancelTrainingJob(training_pb2.CancelTrainingJobRequest(name=waiting))
        for response in watch(service, job):
            seen.append(response)
            if response.event.step_metrics.step >= 20:
                break
        service.kill()
        again = Service(tmp_path, ALONE).until_ready()
        try:
            seen += list(watch(again, job, cursor=seen[-1].cursor))
            assert kinds(list(watch(again, waiting))) == ["QUEUED", "CANCELLED"]
            assert again.stop() == 0
        finally:
            again.kill()
    steps = [r.event.step_metrics.step for r in seen if r.event.HasField("step_metrics")]
    assert steps == [1, *range(5, 151, 5)]
    assert [kind for kind in kinds(seen) if kind.isupper()] == ["QUEUED", "STARTING", "RUNNING", "SUCCEEDED"]


def test_a_clean_stop_leaves_no_worker_behind(tmp_path: Path) -> None:
    with serving(tmp_path, ALONE) as service:
        job = submit(service, steps=1_000_000, workers=spec_pb2.WorkersSpec(count=2))
        for response in watch(service, job):
            if response.event.HasField("step_metrics"):
                break
        assert service.stop() == 0
        assert not working_on(tmp_path)
    with serving(tmp_path, ALONE) as service:
        for response in watch(service, job):
            if response.event.HasField("resumed"):
                break
        assert response.event.resumed.step > 0


def test_an_inference_plane_that_dies_is_started_again_at_the_same_address(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        before = service.facts()
        signal.pidfd_send_signal(_pidfd(before["inference_pid"]), signal.SIGKILL)
        wait_until(lambda: service.facts()["inference_pid"] != before["inference_pid"])
        after = service.facts()
        assert after["inference_grpc"] == before["inference_grpc"]
        with grpc.insecure_channel(after["inference_grpc"]) as channel:
            until_serving(channel)


def test_an_inference_plane_outlives_a_killed_control_plane_and_is_taken_over(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        before = service.facts()
        service.kill()
        assert alive(before["inference_pid"])
        again = Service(tmp_path, "--grpc", before["grpc"]).until_ready()
        try:
            assert again.facts()["inference_pid"] == before["inference_pid"]
            assert again.facts()["inference_grpc"] == before["inference_grpc"]
            assert again.stop() == 0
            assert not working_on(tmp_path)
        finally:
            again.kill()


def test_one_that_follows_another_address_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        before = service.facts()
        service.kill()
        again = Service(tmp_path).until_ready()
        try:
            assert again.facts()["inference_pid"] != before["inference_pid"]
            assert not alive(before["inference_pid"])
            assert again.stop() == 0
        finally:
            again.kill()


def test_an_inference_plane_that_cannot_come_up_stops_the_start_and_shows_why(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ports = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--inference-grpc", address]
        status, said = refused("--data-dir", str(tmp_path), *ports, "--inference-http", "127.0.0.1:0")
    assert status == 1
    assert "the inference plane ended with exit code 2" in said
    assert address in said
    assert not working_on(tmp_path)


def test_the_services_can_be_discovered(tmp_path: Path) -> None:
    from google.protobuf.descriptor_pool import DescriptorPool
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    with serving(tmp_path, ALONE) as service, grpc.insecure_channel(service.facts()["grpc"]) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        names = set(database.get_services())
        found = DescriptorPool(database).FindServiceByName("batchyard.v1.ModelService")
        assert hasattr(models_pb2_grpc.ModelServiceServicer, found.methods[0].name)
    assert {"batchyard.v1.TrainingService", "batchyard.v1.ModelService", "grpc.health.v1.Health"} <= names


def _pidfd(pid: int) -> int:
    return os.pidfd_open(pid)

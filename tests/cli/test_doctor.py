"""doctor: what it says about the installation, this machine and a service."""

import json
import os
import socket
import ssl
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from batchyard.cli.doctor import machine, service
from batchyard.cli.doctor.finding import Finding, Health, Patient
from batchyard.cli.doctor.installation import packages_of
from batchyard.cli.options import Connection
from batchyard.client.testing import FakeService

CHECKS = ("python", "extra server", "extra worker", "cores", "memory", "disk", "data folder", "clock", "GPUs")


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    return Patient(data_dir=tmp_path / "data", connection=Connection())


def only(findings: Any) -> Finding:
    (finding,) = findings
    assert isinstance(finding, Finding)
    return finding


def test_every_check_reports_and_nothing_is_left_behind(run: Any, tmp_path: Path) -> None:
    result = run("doctor", "--json")
    findings = {finding["what"]: finding for finding in json.loads(result.stdout)}
    assert result.exit_code == 0
    assert set(CHECKS) <= set(findings)
    assert all(set(finding) == {"what", "health", "found", "advice"} for finding in findings.values())
    assert not (tmp_path / "batchyard-data").exists()


def test_a_data_folder_that_is_there_is_not_called_new(run: Any, tmp_path: Path) -> None:
    assert "good\tdata folder\tbatchyard-data: new\t" in run("doctor").stdout.splitlines()
    (tmp_path / "batchyard-data").mkdir()
    assert "good\tdata folder\tbatchyard-data\t" in run("doctor").stdout.splitlines()


def test_both_planes_answer_and_the_time_is_told(run: Any, service: FakeService) -> None:
    lines = {line.split("\t")[1]: line.split("\t") for line in run("doctor").stdout.splitlines()}
    for plane, word in (("control plane", "serving"), ("inference plane", "ready")):
        health, _, found, advice = lines[plane]
        assert (health, advice) == ("good", "")
        assert found.startswith(f"{service.address} answers in ")
        assert found.endswith(f" ms, {word}")


def test_an_address_that_was_given_and_does_not_answer_is_bad_and_the_exit_code_says_so(run: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: refuses connections
        result = run("doctor", "--control", f"127.0.0.1:{unused.getsockname()[1]}")
    assert result.exit_code == 1
    assert result.stderr.startswith("batchyard: this will fail: control plane\n")


def test_an_extra_is_what_the_installation_says_it_is() -> None:
    assert {"torch", "onnx", "ray"} <= set(packages_of("worker"))
    assert packages_of("fast") == ["pygrpc-native"]


def test_a_folder_that_cannot_be_written_is_bad(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = Patient(data_dir=Path("/proc/nothing"), connection=patient.connection)
    finding = only(machine.data_folder(blocked))
    assert (finding.health, finding.found.split(":")[0]) == (Health.BAD, "/proc")
    assert "--data-dir" in finding.advice


@pytest.mark.parametrize(
    ("least", "enough", "health"),
    [(0, 1, Health.GOOD), (0, 2**62, Health.WARNING), (2**61, 2**62, Health.BAD)],
    ids=["enough", "little", "none"],
)
def test_disk_is_judged_by_what_is_free(
    patient: Patient, monkeypatch: pytest.MonkeyPatch, least: int, enough: int, health: Health
) -> None:
    monkeypatch.setattr(machine, "LEAST_DISK", least)
    monkeypatch.setattr(machine, "ENOUGH_DISK", enough)
    assert only(machine.disk(patient)).health is health


def test_a_port_that_is_taken_is_named_with_the_flag_that_helps(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(service, "DEFAULT_PORTS", {port: "--http"})
        finding = only(service.ports(patient))
    assert (finding.health, finding.found) == (Health.WARNING, f"127.0.0.1:{port} is taken")
    assert finding.advice == "batchyard up --http 127.0.0.1:0 takes a free one."
    assert only(service.ports(patient)).health is Health.GOOD


def test_what_a_dead_service_left_is_told(patient: Patient) -> None:
    patient.data_dir.mkdir()
    (patient.data_dir / "control.json").write_text(json.dumps({"pid": 2**22 - 1}))
    finding = only(service.process(patient))
    assert (finding.health, "4194303" in finding.found) == (Health.ABSENT, True)
    assert "batchyard up" in finding.advice


def test_a_damaged_control_file_is_bad(patient: Patient) -> None:
    patient.data_dir.mkdir()
    (patient.data_dir / "control.json").write_text("{")
    assert only(service.process(patient)).health is Health.BAD


@pytest.mark.parametrize(
    ("script", "health", "words"),
    [
        ("echo 'NVIDIA H100, 81559 MiB, 550.54'", Health.WARNING, "CPU build"),
        ("echo driver lost >&2; exit 9", Health.WARNING, "nvidia-smi fails"),
    ],
    ids=["torch without CUDA", "broken driver"],
)
def test_a_gpu_that_would_not_be_used_is_a_warning(
    patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, health: Health, words: str
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(machine, "version_of", lambda package: "2.13.0+cpu")
    finding = only(machine.gpus(patient))
    assert finding.health is health
    assert words in finding.found


@pytest.mark.parametrize("days", [3, 300])
def test_the_days_left_of_a_certificate_are_counted(tmp_path: Path, days: int) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", str(days), "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    server = grpc.server(ThreadPoolExecutor(1))
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        assert service.days_left(f"127.0.0.1:{port}", str(certificate)) == pytest.approx(days, abs=0.1)
        with pytest.raises(ssl.SSLCertVerificationError):
            service.days_left(f"127.0.0.1:{port}", "system")
    finally:
        server.stop(None).wait(5)

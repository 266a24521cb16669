"""Who may reach the control plane: tokens and TLS, on both of its ports."""

from __future__ import annotations

import subprocess
from pathlib import Path

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from batchyard.cluster.fake_executor import FakeExecutor
from batchyard.control.grpc_server import reachable
from batchyard.control.settings import Settings
from batchyard.endpoint.security import Security, SecurityError
from batchyard.v1 import training_pb2, training_pb2_grpc
from tests.control.harness import Service, control_plane, refused
from tests.control.processes import serving, until_serving

TOKEN = "a-token-of-some-length"
HEADER = (("authorization", f"Bearer {TOKEN}"),)
LIST = training_pb2.ListTrainingJobsRequest()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.touch(mode=0o600)
    file.write_text(f"{TOKEN}\n")
    return file


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate that names another machine than 127.0.0.1, and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=batchyard.test"
    )
    names = ["-addext", "subjectAltName=DNS:batchyard.test", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    return cert, key


async def test_without_the_token_nothing_is_told_but_health(
    tmp_path: Path, cluster: FakeExecutor, token_file: Path
) -> None:
    async with control_plane(tmp_path / "data", cluster, security=Security(token_file=token_file)) as service:
        for metadata in ((), (("authorization", "Bearer wrong-token-here"),), (("authorization", TOKEN),)):
            async with refused() as found:
                await service.training.ListTrainingJobs(LIST, metadata=metadata)
            assert found[0].code is grpc.StatusCode.UNAUTHENTICATED
            assert found[0].reason == "TOKEN_REQUIRED"
        async with refused() as found:
            await service.training.WatchTrainingJob(training_pb2.WatchTrainingJobRequest(name="trainingJobs/a")).read()
        assert found[0].reason == "TOKEN_REQUIRED"
        await service.training.ListTrainingJobs(LIST, metadata=HEADER)
        async with grpc.aio.insecure_channel(service.plane.grpc_address) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_the_web_asks_for_the_same_token(tmp_path: Path, cluster: FakeExecutor, token_file: Path) -> None:
    async with control_plane(tmp_path / "data", cluster, security=Security(token_file=token_file)) as service:
        site = f"http://{service.plane.http_address}"
        async with aiohttp.ClientSession() as session:
            for path, headers, status in (
                ("/api/jobs", {}, 401),
                ("/metrics", {}, 401),
                ("/api/jobs", {"Authorization": f"Bearer {TOKEN}"}, 200),
                ("/metrics", {"Authorization": f"Bearer {TOKEN}"}, 200),
                ("/healthz", {}, 200),
            ):
                async with session.get(f"{site}{path}", headers=headers) as answer:
                    assert (path, answer.status) == (path, status)


async def test_jobs_are_counted_where_prometheus_looks(service: Service) -> None:
    await service.until_started(await service.submit())
    url = f"http://{service.plane.http_address}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        text = await answer.text()
    assert 'batchyard_jobs{state="STARTING"} 1.0' in text
    assert "batchyard_jobs_submitted_total 1.0" in text


def test_with_tls_the_inference_plane_follows_though_the_certificate_does_not_name_this_machine(
    tmp_path: Path, certificate: tuple[Path, Path], token_file: Path
) -> None:
    cert, key = certificate
    security = ["--tls-cert", str(cert), "--tls-key", str(key), "--token-file", str(token_file)]
    with serving(tmp_path / "data", *security) as service:
        facts = service.facts()
        assert (facts["tls"], facts["token_file"]) == (True, str(token_file))
        credentials = grpc.ssl_channel_credentials(cert.read_bytes())
        options = [("grpc.ssl_target_name_override", "batchyard.test")]
        for address in (facts["grpc"], facts["inference_grpc"]):
            with grpc.secure_channel(address, credentials, options) as channel:
                until_serving(channel)
        with grpc.secure_channel(facts["grpc"], credentials, options) as channel:
            training_pb2_grpc.TrainingServiceStub(channel).ListTrainingJobs(LIST, metadata=HEADER, timeout=10)
        with grpc.insecure_channel(facts["grpc"]) as channel, pytest.raises(grpc.RpcError):
            training_pb2_grpc.TrainingServiceStub(channel).ListTrainingJobs(LIST, metadata=HEADER, timeout=10)
        assert service.stop() == 0


def test_an_address_that_others_can_reach_asks_for_protection(
    tmp_path: Path, certificate: tuple[Path, Path], token_file: Path
) -> None:
    cert, key = certificate
    open_address = {"data_dir": tmp_path, "grpc": "0.0.0.0:0", "inference": False}
    for security in (Security(), Security(token_file=token_file), Security(tls_cert=cert, tls_key=key)):
        with pytest.raises(SecurityError):
            Settings(security=security, **open_address)  # type: ignore[arg-type]
    for security in (Security(insecure=True), Security(tls_cert=cert, tls_key=key, token_file=token_file)):
        Settings(security=security, **open_address)  # type: ignore[arg-type]


def test_any_interface_is_reached_over_the_loopback_one() -> None:
    assert [reachable(a) for a in ("0.0.0.0:1", "[::]:2", "10.0.0.1:3")] == ["127.0.0.1:1", "[::1]:2", "10.0.0.1:3"]

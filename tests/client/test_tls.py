"""TLS and its mistakes, in plain words."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc

from batchyard.client import Client, UnavailableError
from batchyard.client.testing import FakeService
from batchyard.client.testing.servicers import HealthServicer


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate of localhost and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    return cert, key


@pytest.fixture
def port(certificate: tuple[Path, Path]) -> Iterator[int]:
    """Where a health service answers over TLS."""
    cert, key = certificate
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])
    bound = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield bound
    server.stop(None).wait()


def refusal(address: str, tls_ca: str | None) -> UnavailableError:
    with Client(address, tls_ca=tls_ca, retry_for=0.0) as client, pytest.raises(UnavailableError) as caught:
        client.healthy()
    return caught.value


def test_a_trusted_certificate_is_accepted(port: int, certificate: tuple[Path, Path]) -> None:
    with Client(f"localhost:{port}", tls_ca=str(certificate[0]), token="sent over TLS only") as client:
        assert client.healthy()


def test_a_certificate_that_is_not_trusted_is_told_with_what_to_do(port: int) -> None:
    error = refusal(f"localhost:{port}", "system")
    assert "its certificate is not trusted here" in str(error)
    assert "--tls-ca" in error.hint


def test_a_certificate_for_another_name_is_told(port: int, certificate: tuple[Path, Path]) -> None:
    error = refusal(f"127.0.0.1:{port}", str(certificate[0]))
    assert "its certificate is for another host name" in str(error)


def test_a_plain_client_learns_that_the_service_may_want_tls(port: int) -> None:
    error = refusal(f"localhost:{port}", None)
    assert "it closed the connection" in str(error)
    assert "--tls-ca" in error.hint


def test_a_tls_client_learns_that_the_service_is_plain(certificate: tuple[Path, Path]) -> None:
    with FakeService() as plain:
        error = refusal(plain.address, str(certificate[0]))
    assert "it does not speak TLS" in str(error)

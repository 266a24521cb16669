"""Who may reach the inference plane: TLS, the bearer token, the bind policy."""

from __future__ import annotations

import asyncio
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from batchyard.endpoint.security import Security, SecurityError
from batchyard.oip import Stub
from batchyard.serving import transport
from batchyard.serving.settings import Control, Limits, Settings, SettingsError
from bench.small_artifact import SmallNetwork
from tests.serving.harness import Serving, assert_is_answer, logits_of, refusal, request_for

TOKEN = "a-token-of-some-length"
BEARER = (("authorization", f"Bearer {TOKEN}"),)
NETWORK = SmallNetwork(seed=1)
PIXELS = NETWORK.pixels(2)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(TOKEN)
    return path


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate of localhost, and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command.split(), *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


async def test_without_the_token_only_health_is_answered(serving: Serving, token_file: Path) -> None:
    await serving.start(security=Security(token_file=token_file))
    serving.wish(serving.version(1))
    await serving.until_version(1)
    for metadata in ((), (("authorization", f"Bearer {TOKEN}x"),), (("authorization", TOKEN),)):
        code, message, _ = await refusal(serving.stub.ModelInfer(request_for(PIXELS), metadata=metadata))
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "authorization: Bearer" in message
        assert TOKEN not in message
    response = await serving.stub.ModelInfer(request_for(PIXELS), metadata=BEARER)
    assert_is_answer(logits_of(response), NETWORK, PIXELS)
    health: Any = health_pb2_grpc.HealthStub(serving.channel)
    status = (await health.Check(health_pb2.HealthCheckRequest())).status
    assert status == health_pb2.HealthCheckResponse.SERVING


async def test_metrics_ask_for_the_token_and_probes_do_not(serving: Serving, token_file: Path) -> None:
    await serving.start(security=Security(token_file=token_file))
    serving.wish(serving.version(1))
    await serving.until_version(1)
    site = f"http://{serving.plane.http_address}"
    assert await status_of(f"{site}/healthz") == 200
    assert await status_of(f"{site}/metrics") == 401
    assert await status_of(f"{site}/metrics", {"Authorization": f"Bearer {TOKEN}"}) == 200


async def test_tls_goes_through_grpcio(tmp_path: Path, certificate: tuple[Path, Path], token_file: Path) -> None:
    serving = Serving(tmp_path, "auto")
    cert, key = certificate
    await serving.start(security=Security(tls_cert=cert, tls_key=key, token_file=token_file))
    try:
        assert serving.plane.transport == "grpcio"
        serving.wish(serving.version(1))
        await serving.until_version(1)
        credentials = grpc.ssl_channel_credentials(cert.read_bytes())
        async with grpc.aio.secure_channel(serving.plane.grpc_address, credentials) as channel:
            stub: Any = Stub(channel)
            response = await stub.ModelInfer(request_for(PIXELS), metadata=BEARER)
        assert_is_answer(logits_of(response), NETWORK, PIXELS)
    finally:
        await serving.stop()
        await serving.control.stop()


def test_native_with_tls_is_refused_and_told_why(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    with pytest.raises(SettingsError, match="it has no TLS; use grpcio"):
        transport.choose("native", Security(tls_cert=cert, tls_key=key))


def test_native_that_is_not_installed_is_refused_and_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "native_is_installed", lambda: False)
    assert transport.choose("auto", Security()) == "grpcio"
    with pytest.raises(SettingsError, match=r"pip install 'batchyard\[fast\]'"):
        transport.choose("native", Security())


@pytest.mark.parametrize("flag", ["grpc", "http"])
def test_an_address_that_others_can_reach_asks_for_protection(tmp_path: Path, flag: str) -> None:
    control = Control(address="127.0.0.1:1")
    chosen: dict[str, Any] = {flag: "0.0.0.0:0"}
    with pytest.raises(SecurityError, match=r"0\.0\.0\.0:0 can be reached from other machines"):
        Settings(control=control, cache=tmp_path, **chosen)
    assert Settings(control=control, cache=tmp_path, security=Security(insecure=True), **chosen)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"grpc": "8001"}, "--grpc 8001: expected HOST:PORT"),
        ({"http": "127.0.0.1:99999"}, "--http 127.0.0.1:99999: expected HOST:PORT"),
        ({"max_message_bytes": 1}, "--max-message-bytes 1: expected at least 4096"),
        ({"drain_seconds": -1.0}, "--drain-seconds -1.0: expected 0 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_their_flag(tmp_path: Path, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Settings(control=Control(address="127.0.0.1:1"), cache=tmp_path, **wrong)


def test_limits_and_the_control_planes_address_are_checked_too(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--max-batch 0: expected at least 1"):
        Limits(max_batch=0)
    with pytest.raises(SettingsError, match="--control nowhere: expected HOST:PORT"):
        Control(address="nowhere")
    with pytest.raises(SettingsError, match=r"--control-ca .*: no such file"):
        Control(address="127.0.0.1:1", ca=tmp_path / "missing")


def test_the_queue_is_bounded_in_bytes_too() -> None:
    limits = Limits(max_batch=4, queue_rows=1000, queue_bytes=10_000)
    assert limits.rows_that_may_wait(bytes_per_row=1) == 1000
    assert limits.rows_that_may_wait(bytes_per_row=100) == 100
    assert limits.rows_that_may_wait(bytes_per_row=1_000_000) == 4


async def status_of(url: str, headers: dict[str, str] | None = None) -> int:
    def ask() -> int:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=10) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return int(error.code)

    return await asyncio.to_thread(ask)

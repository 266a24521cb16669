"""The inference plane as the control plane asks it: over TLS that names the machine for others, by token, or away."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchyard.control.inference_plane import Addresses, InferencePlane
from batchyard.endpoint.errors import UnavailableError
from batchyard.endpoint.security import Security
from batchyard.oip import Stub, messages
from tests.serving.harness import Serving

TOKEN = "a-token-of-some-length"


def certified(folder: Path, name: str, token_file: Path | None = None) -> Security:
    """With a certificate of its own that names neither 127.0.0.1 nor localhost."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name}"
    names = ["-addext", f"subjectAltName=DNS:{name}.example.com"]
    subprocess.run([*command.split(), *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return Security(tls_cert=cert, tls_key=key, token_file=token_file)


@pytest.fixture
def security(tmp_path: Path) -> Security:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    return certified(tmp_path, "yard", token_file=token)


@pytest.fixture
def stranger(tmp_path: Path) -> Security:
    return certified(tmp_path, "stranger")


@pytest.fixture
async def serving(tmp_path: Path, security: Security) -> AsyncIterator[Serving]:
    started = Serving(tmp_path, "auto")
    await started.start(security=security)
    yield started
    await started.stop()
    await started.control.stop()


async def test_over_tls_and_with_a_token_it_is_reached_at_the_loopback_interface(
    serving: Serving, security: Security
) -> None:
    where = Addresses(grpc=serving.plane.grpc_address, http=serving.plane.http_address)
    plane = InferencePlane(lambda: where, security)
    try:
        assert "batchyard_inference_control_connected" in await plane.metrics()
        async with plane.channel(1 << 20) as channel:
            answer = await Stub(channel).ServerLive(messages.ServerLiveRequest(), metadata=plane.metadata())
        assert answer.live
    finally:
        await plane.close()


async def test_another_certificate_than_its_own_is_not_trusted(serving: Serving, stranger: Security) -> None:
    where = Addresses(grpc=serving.plane.grpc_address, http=serving.plane.http_address)
    plane = InferencePlane(lambda: where, stranger)
    try:
        with pytest.raises(UnavailableError, match="metrics do not answer"):
            await plane.metrics()
        with pytest.raises(UnavailableError, match="does not answer over TLS"):
            async with plane.channel(1 << 20):
                pass
    finally:
        await plane.close()


async def test_without_one_it_is_said_how_to_have_one() -> None:
    with pytest.raises(UnavailableError, match="start it without --no-inference"):
        await InferencePlane(lambda: None, Security()).metrics()

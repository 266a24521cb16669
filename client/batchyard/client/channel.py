"""Opens gRPC channels."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio

from batchyard.client.errors import ConfigurationError
from batchyard.client.settings import SYSTEM_ROOTS, is_loopback

_OPTIONS: list[tuple[str, int]] = [
    # Batches of pictures are larger than gRPC's 4 MB default.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A service that restarts is back within a second or two: look for it more often than gRPC does (1 s to 120 s).
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Two clients in one process must not share one another's back-off.
    ("grpc.use_local_subchannel_pool", 1),
    # gRPC's own retries lose a call that begins just when the service stops: it never ends, whatever its deadline is
    # (grpcio 1.80 to 1.85, one in a hundred of them). Calls are repeated in calls.py, streams in watching.py.
    ("grpc.enable_retries", 0),
]


def open_channel(address: str, tls_ca: str | None) -> grpc.Channel:
    """A channel to host:port; connects at the first call. Raises ConfigurationError for an unreadable certificate."""
    if tls_ca is None:
        return grpc.insecure_channel(address, options=_options(address))
    return grpc.secure_channel(address, _credentials(tls_ca), options=_options(address))


def open_async_channel(address: str, tls_ca: str | None) -> grpc.aio.Channel:
    """As open_channel, for the event loop that runs. Raises ConfigurationError where none does."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        message = "AsyncClient: no event loop runs where it was made"
        raise ConfigurationError(message, hint="Make it in a coroutine, or use Client.") from None
    if tls_ca is None:
        return grpc.aio.insecure_channel(address, options=_options(address))
    return grpc.aio.secure_channel(address, _credentials(tls_ca), options=_options(address))


def _options(address: str) -> list[tuple[str, int]]:
    # A proxy from the environment cannot reach this machine's own loopback.
    proxy = [("grpc.enable_http_proxy", 0)] if is_loopback(address.rpartition(":")[0].strip("[]")) else []
    return _OPTIONS + proxy


def _credentials(tls_ca: str) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(_roots(tls_ca))


def _roots(tls_ca: str) -> bytes | None:
    if tls_ca == SYSTEM_ROOTS:
        return None
    try:
        pem = Path(tls_ca).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"TLS certificate authority {tls_ca}: {error.strerror}", hint="Name the PEM file that the service uses."
        ) from None
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise ConfigurationError(
            f"TLS certificate authority {tls_ca}: not a PEM certificate",
            hint="Name the PEM file that the service uses.",
        )
    return pem

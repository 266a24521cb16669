"""The inference plane beside the control plane, as the dashboard asks it: over the same ports as anybody else."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import grpc

from batchyard.endpoint.errors import UnavailableError
from batchyard.endpoint.security import Security

METRICS_SECONDS = 5.0
"""The longest that its metrics may take."""


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where an inference plane answers, HOST:PORT each, by which this machine reaches it."""

    grpc: str
    http: str


class InferencePlane:
    """Reads an inference plane's metrics and opens channels to it."""

    def __init__(self, addresses: Callable[[], Addresses | None], security: Security) -> None:
        """`addresses` tells where it is now, None while there is none; `security` is what it was started with."""
        self._addresses = addresses
        self._security = security
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes what is open."""
        if self._session is not None:
            await self._session.close()

    def where(self) -> Addresses:
        """Where it answers. Raises UnavailableError where there is none."""
        found = self._addresses()
        if found is None:
            text = "no inference plane runs beside this control plane: start it without --no-inference"
            raise UnavailableError(text, reason="NO_INFERENCE_PLANE")
        return found

    async def metrics(self) -> str:
        """Its Prometheus metrics. Raises UnavailableError."""
        scheme = "http" if self._security.tls_cert is None else "https"
        url = f"{scheme}://{self.where().http}/metrics"
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(METRICS_SECONDS))
        try:
            headers = dict(self._authorization("Authorization"))
            async with self._session.get(url, headers=headers, ssl=self._trust() or True) as response:
                response.raise_for_status()
                return await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            text = f"the inference plane's metrics do not answer ({type(error).__name__}): its log says more"
            raise UnavailableError(text, reason="INFERENCE_PLANE_SILENT") from error

    @asynccontextmanager
    async def channel(self, most_bytes: int) -> AsyncIterator[grpc.aio.Channel]:
        """A channel to its gRPC, for calls with `metadata()` and answers of `most_bytes`. Raises UnavailableError."""
        address = self.where().grpc
        options: list[tuple[str, object]] = [
            ("grpc.max_receive_message_length", most_bytes),
            ("grpc.enable_retries", 0),  # they lose a call that begins just when the plane stops, deadline and all
        ]
        if self._security.tls_cert is None:
            opened = grpc.aio.insecure_channel(address, options)
        else:
            credentials = grpc.ssl_channel_credentials(self._security.tls_cert.read_bytes())
            options.append(("grpc.ssl_target_name_override", await self._name(address)))
            opened = grpc.aio.secure_channel(address, credentials, options)
        async with opened:
            yield opened

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a call must bear."""
        return self._authorization("authorization")

    def _authorization(self, name: str) -> tuple[tuple[str, str], ...]:
        token = self._security.token
        return () if token is None else ((name, f"Bearer {token.decode()}"),)

    def _trust(self) -> ssl.SSLContext | None:
        """Trusts the plane's own certificate and no other.

        Its names are not looked at: it names this machine for others, and need not name the loopback interface.
        """
        if self._security.tls_cert is None:
            return None
        context = ssl.create_default_context(cafile=str(self._security.tls_cert))
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    async def _name(self, address: str) -> str:
        """The first name in the plane's certificate: what gRPC compares, where TLS alone would do without."""
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(METRICS_SECONDS):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=self._trust())
        except (OSError, TimeoutError) as error:
            text = "the inference plane does not answer over TLS: its log says more"
            raise UnavailableError(text, reason="INFERENCE_PLANE_SILENT") from error
        names = dict(writer.get_extra_info("peercert") or {}).get("subjectAltName", ())
        writer.transport.abort()  # nothing was said: nobody waits for a goodbye
        return str(names[0][1]) if names else host

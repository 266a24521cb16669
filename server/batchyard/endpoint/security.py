"""Who may reach an endpoint: the bind policy, TLS and the bearer token, the same for both planes and for HTTP."""

from __future__ import annotations

import hmac
import ipaddress
import ssl
import stat
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc
from aiohttp import web

from batchyard.endpoint.errors import UnauthenticatedError
from batchyard.endpoint.status import abort, rewrap

HEALTH = "/grpc.health.v1.Health/"
"""Probes cannot hold tokens; health says nothing but SERVING."""

SHORTEST_TOKEN = 16


class SecurityError(ValueError):
    """The settings would leave an endpoint open, or name files that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Security:
    """How an endpoint is protected. Raises SecurityError when the files do not fit together."""

    tls_cert: Path | None = None
    """PEM certificate chain of the server."""
    tls_key: Path | None = None
    """PEM private key of the server."""
    token_file: Path | None = None
    """Holds the bearer token; mode 0600."""
    insecure: bool = False
    """Allows an address that is not loopback without TLS and token."""

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SecurityError("--tls-cert and --tls-key go together; only one of them was given")
        for flag, path in (("--tls-cert", self.tls_cert), ("--tls-key", self.tls_key)):
            if path is not None and not path.is_file():
                raise SecurityError(f"{flag} {path}: no such file")
        _ = self.token  # read now, so that a bad file stops the start and not the first request

    @cached_property
    def token(self) -> bytes | None:
        """The token that every call must bear, or None: none is asked for."""
        return None if self.token_file is None else read_token(self.token_file)

    def check_bind(self, address: str) -> None:
        """Raises SecurityError if HOST:PORT may not be bound with these settings."""
        if self.insecure or is_loopback(address) or (self.tls_cert and self.token_file):
            return
        raise SecurityError(
            f"{address} can be reached from other machines: give --tls-cert, --tls-key and --token-file, "
            "or bind 127.0.0.1, or say --insecure if the network itself is trusted"
        )

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """For a secure gRPC port; None: a plain one."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return grpc.ssl_server_credentials([(self.tls_key.read_bytes(), self.tls_cert.read_bytes())])

    def ssl_context(self) -> ssl.SSLContext | None:
        """For an HTTPS site; None: plain HTTP."""
        if self.tls_cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.tls_cert, self.tls_key)
        return context

    def admits(self, authorization: str | bytes | None) -> bool:
        """Whether an Authorization header's value bears the token. Takes the same time for every wrong one."""
        if self.token is None:
            return True
        given = authorization.encode() if isinstance(authorization, str) else authorization or b""
        return hmac.compare_digest(given, b"Bearer " + self.token)


def read_token(path: Path) -> bytes:
    """The token in a file that its owner alone can read. Raises SecurityError."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        token = path.read_bytes().strip()
    except OSError as error:
        raise SecurityError(f"token file {path}: {error.strerror}") from error
    if mode & 0o077:
        raise SecurityError(f"token file {path} has mode {mode:04o}, others can read it: chmod 600 {path}")
    if len(token) < SHORTEST_TOKEN or not token.isascii() or b" " in token:
        raise SecurityError(
            f"token file {path}: expected one word of at least {SHORTEST_TOKEN} ASCII characters; "
            f"make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return token


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT (or unix:PATH) can be reached from this machine alone."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class TokenInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Refuses calls without the token, health checks aside."""

    def __init__(self, security: Security) -> None:
        self._security = security

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Swaps the handler of an unauthorised call for one that refuses it."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(HEALTH):
            return handler
        metadata = dict(handler_call_details.invocation_metadata or ())
        if self._security.admits(metadata.get("authorization")):
            return handler
        return rewrap(handler, lambda _: _refuse_stream if handler.response_streaming else _refuse)


_REFUSAL = "this service asks for a token: send metadata 'authorization: Bearer TOKEN' (batchyard: --token-file FILE)"


def check_token(security: Security, metadata: Iterable[tuple[str, str | bytes]]) -> None:
    """For calls that no interceptor sees. Raises UnauthenticatedError where their metadata lacks the token."""
    if security.token is not None and not security.admits(dict(metadata).get("authorization")):
        raise UnauthenticatedError(_REFUSAL, reason="TOKEN_REQUIRED")


async def _refuse(request: Any, context: Any) -> Any:
    await abort(context, UnauthenticatedError(_REFUSAL, reason="TOKEN_REQUIRED"), "")


async def _refuse_stream(request: Any, context: Any) -> Any:
    await _refuse(request, context)
    yield


def web_middleware(security: Security, open_paths: tuple[str, ...] = ("/", "/healthz", "/static/")) -> Any:
    """Middleware for aiohttp: asks for the token except on `open_paths` (one ending in / opens all below it).

    Without a token, the Host header must name this machine by address or as localhost: a web page elsewhere that
    points its own name at 127.0.0.1 (DNS rebinding) gets nothing.
    """

    def is_open(path: str) -> bool:
        return any(path == p or (len(p) > 1 and p.endswith("/") and path.startswith(p)) for p in open_paths)

    @web.middleware
    async def guard(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
        if security.token is None and not security.insecure and not is_loopback(_with_port(request.host)):
            return _refusal(403, "HOST_NOT_LOCAL", "open this page by address (127.0.0.1) or as localhost")
        if not is_open(request.path) and not security.admits(request.headers.get("Authorization")):
            return _refusal(401, "TOKEN_REQUIRED", "send the header 'Authorization: Bearer TOKEN'")
        return await handler(request)

    return guard


def _with_port(host: str) -> str:
    return host if host.rpartition(":")[2].isdigit() else f"{host}:0"


def _refusal(status: int, reason: str, message: str) -> web.Response:
    body = {"error": {"code": status, "reason": reason, "message": message}}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return web.json_response(body, status=status, headers=headers)

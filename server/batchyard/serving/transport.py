"""The one place that knows which gRPC server runs the handlers.

pygrpc-native serves ModelInfer many times as fast as grpcio (front.py), and leaves the rest to it; it has no TLS. What
differs: with pygrpc-native the size of a message is checked once it has arrived whole.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

import grpc

from batchyard.endpoint.security import Security, TokenInterceptor, check_token
from batchyard.serving.front import FrontServer, Method
from batchyard.serving.settings import SettingsError, Transport


def native_is_installed() -> bool:
    """Whether pygrpc-native can be imported."""
    return importlib.util.find_spec("pygrpc_native") is not None


def choose(transport: Transport, security: Security) -> Transport:
    """Either "native" or "grpcio". Raises SettingsError when what was asked for is impossible."""
    possible = native_is_installed() and security.tls_cert is None
    if transport == "auto":
        return "native" if possible else "grpcio"
    if transport == "native" and not possible:
        why = "it has no TLS; use grpcio" if security.tls_cert else "pip install 'batchyard[fast]'"
        raise SettingsError(f"--transport native: pygrpc-native cannot serve here: {why}")
    return transport


def make_server(transport: Transport, security: Security, max_message_bytes: int, infer: Method) -> Any:
    """A grpc.aio server, or one with its interface, without a port. `transport` is what `choose` returned.

    `infer`: the method that most calls are of, for a transport that can do without a coroutine for each call.
    """
    options = [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),
        # Otherwise grpcio shares a port that another server has, and each gets some of the calls.
        ("grpc.so_reuseport", 0),
    ]
    interceptors = [TokenInterceptor(security)] if security.token else []
    server = grpc.aio.server(interceptors=interceptors, options=options)
    if transport == "native":
        admit = partial(check_token, security) if security.token else None
        return FrontServer(infer, admit, server, max_message_bytes)
    return server


def bind(server: Any, address: str, security: Security) -> str:
    """Binds HOST:PORT and returns it with the port that it got. Raises SettingsError when it is taken or illegal."""
    credentials = security.server_credentials()
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise SettingsError(f"--grpc {address} cannot be bound: {error}") from error
    return f"{address.rpartition(':')[0]}:{port}"

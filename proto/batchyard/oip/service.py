"""Serving and calling GRPCInferenceService, from its descriptor."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import message_factory

from batchyard.oip.contract import SERVICE, SERVICE_NAME


def add_servicer(servicer: object, server: Any) -> None:
    """Registers the methods that `servicer` has with `server` (grpcio, sync or aio, or a server with its interface).

    A method that the servicer lacks is answered UNIMPLEMENTED by the server.
    """
    handlers = {}
    for method in SERVICE.methods:
        behaviour = getattr(servicer, method.name, None)
        if behaviour is None:
            continue
        make = _HANDLERS[method.client_streaming, method.server_streaming]
        handlers[method.name] = make(
            behaviour,
            request_deserializer=message_factory.GetMessageClass(method.input_type).FromString,
            response_serializer=message_factory.GetMessageClass(method.output_type).SerializeToString,
        )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))
    server.add_registered_method_handlers(SERVICE_NAME, handlers)


class Stub:
    """One callable attribute for each method, over a grpc.Channel or a grpc.aio.Channel."""

    def __init__(self, channel: Any) -> None:
        for method in SERVICE.methods:
            connect = getattr(channel, _CONNECT[method.client_streaming, method.server_streaming])
            callable_ = connect(
                f"/{SERVICE_NAME}/{method.name}",
                request_serializer=message_factory.GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
                _registered_method=True,
            )
            setattr(self, method.name, callable_)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{SERVICE_NAME} has no method {name}")


# (client streaming, server streaming) -> handler, channel method
_HANDLERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
_CONNECT = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}

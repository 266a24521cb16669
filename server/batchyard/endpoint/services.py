"""grpc.health.v1 and server reflection, on every gRPC server of ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc


class Health:
    """Says whether each service answers; watchers hear of changes at once."""

    def __init__(self, servicer: Any, names: tuple[str, ...]) -> None:
        self._servicer = servicer
        self._names = names

    async def set(self, serving: bool, service: str | None = None) -> None:
        """Sets one service, or all of them and the server as a whole ("")."""
        states = health_pb2.HealthCheckResponse
        state = states.SERVING if serving else states.NOT_SERVING
        for name in (service,) if service is not None else ("", *self._names):
            await self._servicer.set(name, state)


def add_standard_services(server: Any, files: Iterable[FileDescriptor]) -> Health:
    """Registers health and reflection for every service that `files` declare, from whatever DescriptorPool.

    Every service is NOT_SERVING until Health.set says otherwise.
    """
    files = tuple(files)
    names = tuple(service.full_name for file in files for service in file.services_by_name.values())
    servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]  # re-exported where asyncio exists
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    pool = _pool_of((*files, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR))
    listed = (*names, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflector = reflection.aio.ReflectionServicer(listed, pool=pool)  # type: ignore[attr-defined]
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflector, server)
    return Health(servicer, names)


def _pool_of(files: Iterable[FileDescriptor]) -> DescriptorPool:
    """A pool that holds `files` and what they import, so that reflection can describe all of them together."""
    pool, known = DescriptorPool(), set[str]()

    def add(file: FileDescriptor) -> None:
        if file.name in known:
            return
        known.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        packed = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(packed)
        pool.Add(packed)

    for file in files:
        add(file)
    return pool

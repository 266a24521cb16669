"""grpc.health.v1 and server reflection, on every gRPC server of ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from batchyard.endpoint.health import Health


def add_standard_services(server: Any, files: Iterable[FileDescriptor]) -> Health:
    """Registers health and reflection for every service that `files` declare, from whatever DescriptorPool.

    Every service is NOT_SERVING until Health.set says otherwise.
    """
    files = tuple(files)
    names = tuple(service.full_name for file in files for service in file.services_by_name.values())
    health = Health(names)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    pool = _pool_of((*files, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR))
    listed = (*names, SERVICE_NAME, reflection.SERVICE_NAME)
    reflector = reflection.aio.ReflectionServicer(listed, pool=pool)  # type: ignore[attr-defined]
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflector, server)
    return health


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

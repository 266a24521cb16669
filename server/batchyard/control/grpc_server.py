"""The control plane's gRPC server: services, health, reflection, errors, tokens."""

from __future__ import annotations

from typing import Any

import grpc

from batchyard.control.exchange import Exchange
from batchyard.control.explaining import Explaining
from batchyard.control.jobs import Jobs
from batchyard.control.lineage import Lineages
from batchyard.control.recalibration import Recalibration
from batchyard.control.registry import Registry
from batchyard.control.rpc.lineage import LineageServicer
from batchyard.control.rpc.models import ModelServicer
from batchyard.control.rpc.training import TrainingServicer
from batchyard.control.settings import SettingsError
from batchyard.endpoint.security import Security, TokenInterceptor
from batchyard.endpoint.services import add_standard_services
from batchyard.endpoint.status import Guarded
from batchyard.v1 import lineage_pb2, lineage_pb2_grpc, models_pb2, models_pb2_grpc, training_pb2, training_pb2_grpc

OPTIONS = (
    # Two servers on one port would share its calls at random; the second one must fail instead.
    ("grpc.so_reuseport", 0),
    # A watch may be silent for hours: let clients ping so that they notice a dead line.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
)
STOP_SECONDS = 2.0
"""For calls in flight; watches have been told to end before."""


class GrpcServer:
    """Bound at once, answering from `start` on."""

    def __init__(
        self,
        jobs: Jobs,
        explaining: Explaining,
        registry: Registry,
        exchange: Exchange,
        recalibration: Recalibration,
        lineages: Lineages,
        security: Security,
    ) -> None:
        self._security = security
        self._server: Any = grpc.aio.server(interceptors=[TokenInterceptor(security)], options=OPTIONS)
        guarded: Any = Guarded(self._server)
        training_pb2_grpc.add_TrainingServiceServicer_to_server(TrainingServicer(jobs, explaining), guarded)
        models = ModelServicer(registry, exchange, recalibration)
        models_pb2_grpc.add_ModelServiceServicer_to_server(models, guarded)
        lineage_pb2_grpc.add_LineageServiceServicer_to_server(LineageServicer(lineages), guarded)
        described = [training_pb2.DESCRIPTOR, models_pb2.DESCRIPTOR, lineage_pb2.DESCRIPTOR]
        self.health = add_standard_services(guarded, described)

    def bind(self, address: str) -> str:
        """Binds HOST:PORT and returns it with the port that it got. Raises SettingsError when it is taken."""
        credentials = self._security.server_credentials()
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError:
            raise _taken(address) from None
        return f"{address.rpartition(':')[0]}:{port}"

    def bind_for_child(self, address: str) -> str:
        """Where the inference plane beside us reaches us, given where we are bound.

        With TLS that is a plain port on the loopback interface: the certificate names this machine for others, and
        need not name 127.0.0.1. The token is asked for there too.
        """
        if self._security.tls_cert is None:
            return reachable(address)
        return f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def start(self) -> None:
        """Begins to answer; health says NOT_SERVING until it is told otherwise."""
        await self.health.set(False)
        await self._server.start()

    async def stop(self) -> None:
        """Refuses new calls, ends the watches of health, waits a little for what is in flight."""
        await self.health.close()
        await self._server.stop(STOP_SECONDS)


def reachable(address: str) -> str:
    """The address by which this machine reaches a server bound there: "any interface" is none to connect to."""
    host, _, port = address.rpartition(":")
    return f"{ {'0.0.0.0': '127.0.0.1', '[::]': '[::1]'}.get(host, host) }:{port}"


def _taken(address: str) -> SettingsError:
    return SettingsError(f"--grpc {address} cannot be bound: stop what listens there, or choose another address")

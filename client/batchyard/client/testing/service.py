"""The fake service: both planes on one address."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Self

import grpc
from grpc_health.v1 import health_pb2_grpc

from batchyard.client.testing.holdings import Holdings
from batchyard.client.testing.servicers import (
    HealthServicer,
    InferenceServicer,
    LineageServicer,
    ModelsServicer,
    ShadowServicer,
    ShiftServicer,
    TrainingServicer,
)
from batchyard.oip import add_servicer
from batchyard.v1 import lineage_pb2_grpc, models_pb2_grpc, shadow_pb2_grpc, shift_pb2_grpc, training_pb2_grpc


class FakeService(Holdings):
    """Jobs do what the test emits; models are functions from pixels to logits."""

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        super().__init__()
        self._server = grpc.server(ThreadPoolExecutor(16))
        training_pb2_grpc.add_TrainingServiceServicer_to_server(TrainingServicer(self), self._server)
        models_pb2_grpc.add_ModelServiceServicer_to_server(ModelsServicer(self), self._server)
        lineage_pb2_grpc.add_LineageServiceServicer_to_server(LineageServicer(self), self._server)
        shift_pb2_grpc.add_ShiftServiceServicer_to_server(ShiftServicer(self), self._server)
        shadow_pb2_grpc.add_ShadowServiceServicer_to_server(ShadowServicer(self), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), self._server)
        add_servicer(InferenceServicer(self), self._server)
        host = address.rpartition(":")[0]
        self.address = f"{host}:{self._server.add_insecure_port(address)}"
        """host:port of everything."""

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.stop(None).wait()
        with self.changed:
            self.changed.notify_all()

"""Shadow traffic: an inference plane's ShadowService."""

from __future__ import annotations

import grpc

from batchyard.client.calls import Caller
from batchyard.v1.shadow_pb2 import GetShadowRequest, ShadowComparison
from batchyard.v1.shadow_pb2_grpc import ShadowServiceStub


class Shadow:
    """Calls to one inference plane's ShadowService. Thread-safe. Every method raises RpcError."""

    def __init__(self, channel: grpc.Channel, caller: Caller) -> None:
        self._stub, self._call = ShadowServiceStub(channel), caller

    def get(self, model: str) -> ShadowComparison:
        """How the answers of the version with the alias `shadow` compare with those that callers get.

        Raises PreconditionError where the model has no shadow.
        """
        return self._call(self._stub.GetShadow, GetShadowRequest(model=model))

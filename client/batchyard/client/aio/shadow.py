"""Shadow traffic: an inference plane's ShadowService."""

from __future__ import annotations

import grpc.aio

from batchyard.client.aio.calls import AsyncCaller
from batchyard.v1.shadow_pb2 import GetShadowRequest, ShadowComparison
from batchyard.v1.shadow_pb2_grpc import ShadowServiceStub


class AsyncShadow:
    """Calls to one inference plane's ShadowService. Of one event loop. Every method raises RpcError."""

    def __init__(self, channel: grpc.aio.Channel, caller: AsyncCaller) -> None:
        self._stub, self._call = ShadowServiceStub(channel), caller

    async def get(self, model: str) -> ShadowComparison:
        """How the answers of the version with the alias `shadow` compare with those that callers get.

        Raises PreconditionError where the model has no shadow.
        """
        return await self._call(self._stub.GetShadow, GetShadowRequest(model=model))

"""Covariate shift: an inference plane's ShiftService."""

from __future__ import annotations

import grpc.aio
import numpy as np

from batchyard.client.aio.calls import AsyncCaller
from batchyard.client.tensors import Array, unpack
from batchyard.v1 import shift_pb2
from batchyard.v1.shift_pb2 import ModelShift
from batchyard.v1.shift_pb2_grpc import ShiftServiceStub


class AsyncShift:
    """Calls to one inference plane's ShiftService. Of one event loop. Every method raises RpcError."""

    def __init__(self, channel: grpc.aio.Channel, caller: AsyncCaller) -> None:
        self._stub, self._call = ShiftServiceStub(channel), caller

    async def get(self, model: str, version: str = "", *, channels: int = 0) -> ModelShift:
        """How far live data is from training data; `channels` of each layer, the worst first: 0 means 5, -1 all.

        Raises PreconditionError where requests are not sampled or the version has no probe graph.
        """
        request = shift_pb2.GetShiftRequest(model=model, version=version, channels=channels)
        return await self._call(self._stub.GetShift, request)

    async def sampled_inputs(self, model: str, version: str = "", *, rows: int = 0) -> Array:
        """Raw pixels [n, channels, height, width] of the newest `rows` that were sampled, oldest first; 0: all kept.

        Raises PreconditionError as `get` does.
        """
        request = shift_pb2.GetSampledInputsRequest(model=model, version=version, rows=rows)
        given = await self._call(self._stub.GetSampledInputs, request)
        return np.asarray(unpack(f"{model}: sampled inputs", given.datatype, tuple(given.shape), given.raw))

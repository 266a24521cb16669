"""SystemSharedMemory{Status,Register,Unregister}, and the same for CUDA, which this server does not map.

Triton's examples begin with unregistering everything, CUDA regions too, on any machine: where nothing can be registered
that is answered truthfully, by doing nothing.
"""

from __future__ import annotations

from typing import Any

from batchyard.endpoint.errors import NotFoundError, UnsupportedError
from batchyard.oip import messages
from batchyard.serving.shared_memory import SharedMemory
from batchyard.serving.shown import shown


class SystemSharedMemory:
    """The extension's three calls."""

    def __init__(self, shared_memory: SharedMemory) -> None:
        self._shared_memory = shared_memory

    async def SystemSharedMemoryStatus(
        self, request: messages.SystemSharedMemoryStatusRequest, context: Any
    ) -> messages.SystemSharedMemoryStatusResponse:
        """One region, or all. Raises NotFoundError."""
        status = messages.SystemSharedMemoryStatusResponse.RegionStatus
        return messages.SystemSharedMemoryStatusResponse(
            regions={
                region.name: status(name=region.name, key=region.key, offset=region.offset, byte_size=region.byte_size)
                for region in self._shared_memory.regions(request.name)
            }
        )

    async def SystemSharedMemoryRegister(
        self, request: messages.SystemSharedMemoryRegisterRequest, context: Any
    ) -> messages.SystemSharedMemoryRegisterResponse:
        """Raises what SharedMemory.register does."""
        self._shared_memory.register(request.name, request.key, request.offset, request.byte_size)
        return messages.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(
        self, request: messages.SystemSharedMemoryUnregisterRequest, context: Any
    ) -> messages.SystemSharedMemoryUnregisterResponse:
        """One region, or all; it is no error when there is none."""
        self._shared_memory.unregister(request.name)
        return messages.SystemSharedMemoryUnregisterResponse()


class CudaSharedMemory:
    """The same for CUDA: nothing is ever registered."""

    async def CudaSharedMemoryStatus(
        self, request: messages.CudaSharedMemoryStatusRequest, context: Any
    ) -> messages.CudaSharedMemoryStatusResponse:
        """No regions. Raises NotFoundError for any by name."""
        if request.name:
            problem = f"no CUDA shared memory region {shown(request.name)} is registered; this server has none"
            raise NotFoundError(problem, reason="REGION_NOT_FOUND")
        return messages.CudaSharedMemoryStatusResponse()

    async def CudaSharedMemoryRegister(
        self, request: messages.CudaSharedMemoryRegisterRequest, context: Any
    ) -> messages.CudaSharedMemoryRegisterResponse:
        """Raises UnsupportedError."""
        raise UnsupportedError(
            "this server maps no CUDA memory; send the bytes, or use system shared memory", reason="NO_CUDA_MEMORY"
        )

    async def CudaSharedMemoryUnregister(
        self, request: messages.CudaSharedMemoryUnregisterRequest, context: Any
    ) -> messages.CudaSharedMemoryUnregisterResponse:
        """Nothing to do."""
        return messages.CudaSharedMemoryUnregisterResponse()

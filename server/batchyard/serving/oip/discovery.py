"""ServerLive, ServerReady, ModelReady, ServerMetadata, ModelMetadata: what there is and whether it answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from batchyard.endpoint.errors import DomainError
from batchyard.oip import messages
from batchyard.serving.repository import Repository

SERVER_NAME = "batchyard"


class Discovery:
    """Answers what clients ask before they infer."""

    def __init__(self, repository: Repository, server_version: str, extensions: Iterable[str]) -> None:
        """`extensions`: the protocol's names of those that this server has."""
        self._repository = repository
        self._server_version = server_version
        self._extensions = tuple(extensions)

    async def ServerLive(self, request: messages.ServerLiveRequest, context: Any) -> messages.ServerLiveResponse:
        """Whether the process is up."""
        return messages.ServerLiveResponse(live=True)

    async def ServerReady(self, request: messages.ServerReadyRequest, context: Any) -> messages.ServerReadyResponse:
        """Whether every model that should be served answers."""
        return messages.ServerReadyResponse(ready=self._repository.ready)

    async def ModelReady(self, request: messages.ModelReadyRequest, context: Any) -> messages.ModelReadyResponse:
        """Whether one model answers; false, not an error, for one that is not known."""
        try:
            self._repository.resolve(request.name, request.version)
        except DomainError:
            return messages.ModelReadyResponse(ready=False)
        return messages.ModelReadyResponse(ready=True)

    async def ServerMetadata(
        self, request: messages.ServerMetadataRequest, context: Any
    ) -> messages.ServerMetadataResponse:
        """Name, version and extensions of the server."""
        return messages.ServerMetadataResponse(
            name=SERVER_NAME, version=self._server_version, extensions=self._extensions
        )

    async def ModelMetadata(
        self, request: messages.ModelMetadataRequest, context: Any
    ) -> messages.ModelMetadataResponse:
        """Inputs and outputs of a model. Raises NotFoundError or UnavailableError."""
        served = self._repository.resolve(request.name, request.version)
        tensor = messages.ModelMetadataResponse.TensorMetadata
        return messages.ModelMetadataResponse(
            name=served.name,
            versions=self._repository.versions_of(served.name),
            platform=served.platform,
            inputs=[tensor(name=served.input.name, datatype=served.input.datatype, shape=served.input.shape)],
            outputs=[tensor(name=served.output.name, datatype=served.output.datatype, shape=served.output.shape)],
        )

"""RepositoryIndex, RepositoryModelLoad, RepositoryModelUnload: what is there, fetched and dropped."""

from __future__ import annotations

from typing import Any

from batchyard.endpoint.errors import FieldViolation, ForbiddenError, InvalidInputError, UnsupportedError
from batchyard.oip import messages
from batchyard.serving.model_control import ModelControl
from batchyard.serving.settings import ModelControlMode
from batchyard.serving.shown import shown


class RepositoryControl:
    """The extension's three calls; the index is for everybody, the other two only in the mode "explicit"."""

    def __init__(self, control: ModelControl, mode: ModelControlMode) -> None:
        self._control = control
        self._mode = mode

    async def RepositoryIndex(
        self, request: messages.RepositoryIndexRequest, context: Any
    ) -> messages.RepositoryIndexResponse:
        """Every version, or those that answer. Raises InvalidInputError for a repository's name: there is only one."""
        _check_repository(request.repository_name)
        line = messages.RepositoryIndexResponse.ModelIndex
        return messages.RepositoryIndexResponse(
            models=[
                line(name=known.model, version=str(known.version), state=known.state, reason=known.reason)
                for known in self._control.index()
                if known.state == "READY" or not request.ready
            ]
        )

    async def RepositoryModelLoad(
        self, request: messages.RepositoryModelLoadRequest, context: Any
    ) -> messages.RepositoryModelLoadResponse:
        """Returns once the model answers. Raises ForbiddenError, UnsupportedError and what ModelControl.load does."""
        self._check_allowed()
        _check_repository(request.repository_name)
        if request.parameters:
            given = ", ".join(shown(name) for name in list(request.parameters)[:5])
            raise UnsupportedError(
                f"load of model {shown(request.model_name)}: parameters {given} given; a published model's files and "
                f"settings come from the control plane",
                reason="NO_OVERRIDES",
            )
        await self._control.load(request.model_name)
        return messages.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: messages.RepositoryModelUnloadRequest, context: Any
    ) -> messages.RepositoryModelUnloadResponse:
        """Returns once requests are refused; those under way are answered. Raises ForbiddenError, NotFoundError.

        The parameter unload_dependents changes nothing: no model depends on another.
        """
        self._check_allowed()
        _check_repository(request.repository_name)
        await self._control.unload(request.model_name)
        return messages.RepositoryModelUnloadResponse()

    def _check_allowed(self) -> None:
        if self._mode != "explicit":
            raise ForbiddenError(
                "clients may not load or unload models here: the control plane decides what is served; "
                "the operator can start the inference plane with --model-control explicit",
                reason="MODEL_CONTROL_FORBIDDEN",
            )


def _check_repository(name: str) -> None:
    if name:
        problem = f"got {shown(name)}; there is one repository, and it has no name"
        raise InvalidInputError([FieldViolation("repository_name", problem)])

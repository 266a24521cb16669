"""TraceSetting: which requests are traced, and into which file."""

from __future__ import annotations

from typing import Any

from batchyard.oip import messages
from batchyard.serving.repository import Repository
from batchyard.serving.tracing import Tracing


class TraceSettings:
    """The extension's one call."""

    def __init__(self, tracing: Tracing, repository: Repository) -> None:
        self._tracing = tracing
        self._repository = repository

    async def TraceSetting(self, request: messages.TraceSettingRequest, context: Any) -> messages.TraceSettingResponse:
        """Changes what is given and answers with everything, of one model or of all.

        Raises NotFoundError or UnavailableError for a model that is not served, and what Tracing.change does.
        """
        model = self._repository.resolve(request.model_name, "").name if request.model_name else ""
        if request.settings:
            self._tracing.change(model, {name: list(given.value) for name, given in request.settings.items()})
        value = messages.TraceSettingResponse.SettingValue
        known = self._tracing.settings(model)
        return messages.TraceSettingResponse(settings={name: value(value=values) for name, values in known.items()})

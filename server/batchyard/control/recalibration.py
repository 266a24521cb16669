"""New population statistics for a version from unlabelled inputs: a new version, promoted by nobody but people."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

from batchyard.control import names, uploads
from batchyard.control.fetching import fetch
from batchyard.control.records import ModelVersion
from batchyard.control.registry import Registry
from batchyard.control.repeats import Request, check_request_id
from batchyard.control.torch_tasks import TorchTasks
from batchyard.control.uploads import FileHeader
from batchyard.endpoint.errors import FieldViolation, InvalidInputError, OverloadedError, PreconditionError

TASK = "batchyard.training.recalibrate"
INPUTS = "inputs"
DEFAULT_ALIAS = "production"
"""Who answers where a request names no version; without it the newest version does (serving/naming.py)."""
MOST_AT_ONCE = 2
"""Recalibrations that may take disk at the same time."""


class Recalibration:
    """Makes recalibrated versions."""

    def __init__(self, registry: Registry, tasks: TorchTasks) -> None:
        self._registry = registry
        self._tasks = tasks
        self._under_way = 0

    async def recalibrate(
        self,
        model: str,
        which: int | str,
        prior: float,
        parts: AsyncIterator[FileHeader | bytes],
        request_id: str = "",
    ) -> ModelVersion:
        """The new version, made from `which` and the inputs that `parts` hold.

        Raises NotFoundError, InvalidInputError for a wrong prior or wrong inputs, OverloadedError, AlreadyExistsError
        for a request_id of another recalibration, PreconditionError where the new version would be promoted at once, or
        cannot be certified, and UnavailableError where the artifacts' store cannot be reached.
        """
        if not (prior >= 0 and math.isfinite(prior)):
            raise InvalidInputError([FieldViolation("spec.prior", f"{prior:g} given; expected samples, 0 or more")])
        check_request_id(request_id, "spec.request_id")
        asked = {"method": "recalibrate", "spec": {"name": f"{model}@{which}", "prior": prior}}
        version = await self._registry.get_version(model, which)
        await self._check_alias(model, version)
        if self._under_way >= MOST_AT_ONCE:
            text = f"{self._under_way} recalibrations are under way; at most {MOST_AT_ONCE} may be"
            raise OverloadedError(text, reason="RECALIBRATIONS_FULL", retry_after=10.0)
        self._under_way += 1
        try:
            return await self._publish(version, prior, parts, Request(id=request_id, asked=asked))
        finally:
            self._under_way -= 1

    async def _check_alias(self, model: str, version: ModelVersion) -> None:
        if DEFAULT_ALIAS not in (await self._registry.get_model(model)).aliases:
            text = (
                f"model {model} has no alias {DEFAULT_ALIAS!r}, so requests without a version go to its newest version "
                f"and the new one would be promoted unseen: set it first, batchyard alias {model} {DEFAULT_ALIAS} "
                f"{version.number}"
            )
            raise PreconditionError(text, reason="NO_DEFAULT_ALIAS")

    async def _publish(
        self, version: ModelVersion, prior: float, parts: AsyncIterator[FileHeader | bytes], request: Request
    ) -> ModelVersion:
        source = names.version(version.model, version.number)
        async with self._tasks.folder() as folder:
            if not (files := await uploads.receive(parts, folder, {INPUTS})):
                problem = f"no file given; expected {INPUTS!r}, an NPZ with the array {INPUTS!r}"
                raise InvalidInputError([FieldViolation("file", problem)])
            await fetch(version, folder / "source")
            order = {
                "model": version.model,
                "source": source,
                "manifest_sha256": version.manifest_sha256,
                "prior": prior,
            }
            request = Request(id=request.id, asked={**request.asked, "files": files})
            return await self._tasks.publish(TASK, order, folder, request, model=version.model)

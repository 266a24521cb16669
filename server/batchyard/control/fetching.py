"""A version's artifact for those who work with its files, and what it means that one cannot be had."""

from __future__ import annotations

import asyncio
from pathlib import Path

from batchyard.artifact.errors import ArtifactError
from batchyard.artifact.reader import fetch_and_verify
from batchyard.control import names
from batchyard.control.records import ModelVersion
from batchyard.endpoint.errors import DomainError, PreconditionError, UnavailableError


async def fetch(version: ModelVersion, folder: Path) -> None:
    """Copies the artifact to `folder`, which is not there yet. Raises PreconditionError, UnavailableError."""
    try:
        await asyncio.to_thread(fetch_and_verify, version.artifact_uri, version.manifest_sha256, folder)
    except ArtifactError as error:
        name = names.version(version.model, version.number)
        if error.passing:
            raise store_away(f"{name} cannot be fetched: {error}") from error
        text = f"{name} cannot be used: {error}"
        raise PreconditionError(text, reason="ARTIFACT_UNUSABLE", metadata={"name": name}) from error


def store_away(what: str) -> DomainError:
    """Something failed because a store is out of reach or busy, which may pass by itself."""
    advice = "try again, and if it stays so, see whether the control plane reaches the store"
    return UnavailableError(f"{what}; nothing has changed: {advice}", reason="STORE_AWAY")

"""Where artifacts and checkpoints go: the data folder, or what the settings name, looked at before a start."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from batchyard.artifact.storage import StorageError, probe
from batchyard.control.data_folder import DataFolder
from batchyard.control.settings import Settings, SettingsError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Storage:
    """fsspec URIs."""

    artifacts: str
    """Below it every published model has a folder."""
    checkpoints: str
    """Below it every job has a folder of checkpoints."""

    @classmethod
    async def open(cls, settings: Settings, folder: DataFolder) -> Storage:
        """Raises SettingsError for a place that can never work: its package is missing, or the bucket, or the rights.

        One that is out of reach at the moment is no reason not to start: jobs are running, and try again.
        """
        for flag, uri in (("--artifacts", settings.artifacts), ("--checkpoints", settings.checkpoints)):
            if uri is None:
                continue
            try:
                await asyncio.to_thread(probe, uri)
            except OSError as error:
                if not (isinstance(error, StorageError) and error.passing):
                    raise SettingsError(f"{flag} {error}") from error
                log.warning("%s %s", flag, error)
        return cls(
            artifacts=(settings.artifacts or folder.artifacts).rstrip("/"),
            checkpoints=(settings.checkpoints or folder.checkpoints).rstrip("/"),
        )

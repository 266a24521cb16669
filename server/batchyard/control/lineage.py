"""Where versions come from: their jobs, their checkpoints, and the versions that they were made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection

from batchyard.control import names
from batchyard.control.ledger import Ledger
from batchyard.control.records import Checkpoint, Job, ModelVersion
from batchyard.control.registry import version_of
from batchyard.control.store import checkpoints, models
from batchyard.control.store import jobs as store


@dataclass(frozen=True, kw_only=True)
class VersionLineage:
    """One version, from what it is served as back to the job that trained it."""

    version: ModelVersion
    aliases: tuple[str, ...]
    """Those that name it, sorted."""
    latest: bool
    """Whether it is its model's newest version."""
    job: Job | None
    """None for a version of another origin, or whose job's record is gone."""
    checkpoint: Checkpoint | None
    """The newest that is kept of the job."""


class Lineages:
    """Follows versions back to what they were made from."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def of(self, model: str, which: int | str) -> tuple[VersionLineage, ...]:
        """The version with this number or alias, then what it was made from, then what that was made from: each once.

        All of one moment. Raises NotFoundError.
        """
        return await self._ledger.read(lambda connection: tuple(_walk(connection, model, which)))


def _walk(connection: Connection, model: str, which: int | str) -> Iterator[VersionLineage]:
    """Breadth first. Versions are never removed, and are made only from versions that there are."""
    ahead = [version_of(connection, model, which)]
    known = {(ahead[0].model, ahead[0].number)}
    for version in ahead:  # which grows meanwhile
        yield _one(connection, version)
        for source in version.manifest.sources:
            made_from = version_of(connection, *names.parse_version(source))
            if (made_from.model, made_from.number) not in known:
                known.add((made_from.model, made_from.number))
                ahead.append(made_from)


def _one(connection: Connection, version: ModelVersion) -> VersionLineage:
    model = models.find(connection, version.model)
    assert model is not None
    job = store.find(connection, version.job) if version.job else None
    return VersionLineage(
        version=version,
        aliases=tuple(sorted(alias for alias, number in model.aliases.items() if number == version.number)),
        latest=version.number == model.latest_version,
        job=job,
        checkpoint=checkpoints.newest(connection, job) if job else None,
    )

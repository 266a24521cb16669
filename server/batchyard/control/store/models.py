"""Models, versions and aliases: rows to records and back. Every function runs inside the caller's transaction."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, insert, select, update

from batchyard.artifact.manifest import Manifest
from batchyard.control.records import Model, ModelVersion, ServedModel
from batchyard.control.states import TERMINAL
from batchyard.control.store.schema import aliases, attempts, jobs, models, versions


def find(connection: Connection, name: str) -> Model | None:
    """The model, or None."""
    found = _models(connection, select(models).where(models.c.name == name))
    return found[0] if found else None


def page(connection: Connection, size: int, after: str | None) -> list[Model]:
    """Up to `size` models by name, of names above `after`."""
    query = select(models).order_by(models.c.name).limit(size)
    return _models(connection, query if after is None else query.where(models.c.name > after))


def find_version(connection: Connection, model: str, number: int) -> ModelVersion | None:
    """The version, or None."""
    query = select(versions).where(versions.c.model == model, versions.c.number == number)
    row = connection.execute(query).one_or_none()
    return None if row is None else _version(row)


def version_page(connection: Connection, model: str, size: int, before: int | None) -> list[ModelVersion]:
    """Up to `size` versions, newest first, of numbers below `before`."""
    query = select(versions).where(versions.c.model == model).order_by(versions.c.number.desc()).limit(size)
    if before is not None:
        query = query.where(versions.c.number < before)
    return [_version(row) for row in connection.execute(query)]


def add_version(
    connection: Connection, manifest: Manifest, artifact_uri: str, manifest_sha256: str, now: float
) -> ModelVersion:
    """Registers an artifact as the next version of its model, creating the model if it is the first."""
    model = find(connection, manifest.model)
    number = 1 if model is None else model.latest_version + 1
    if model is None:
        connection.execute(insert(models).values(name=manifest.model, create_time=now, latest_version=number))
    else:
        connection.execute(update(models).where(models.c.name == manifest.model).values(latest_version=number))
    version = ModelVersion(
        model=manifest.model,
        number=number,
        create_time=now,
        job=manifest.job,
        artifact_uri=artifact_uri,
        manifest_sha256=manifest_sha256,
        manifest=_without_statistics(manifest),
    )
    values = {field.name: getattr(version, field.name) for field in dataclasses.fields(version)}
    connection.execute(insert(versions).values(**{**values, "manifest": version.manifest.to_json()}))
    return version


def useless(connection: Connection, artifact_uris: Collection[str]) -> list[str]:
    """Those of `artifact_uris` that attempts of jobs that have ended were to publish to, and that are no version."""
    query = select(attempts.c.artifact_uri).join(jobs, jobs.c.number == attempts.c.job_number)
    over = jobs.c.state.in_(sorted(TERMINAL)) & attempts.c.artifact_uri.in_(artifact_uris)
    registered = select(versions.c.number).where(versions.c.artifact_uri == attempts.c.artifact_uri).exists()
    return list(connection.execute(query.where(over, ~registered)).scalars())


def set_alias(connection: Connection, model: str, alias: str, version: int) -> None:
    """Points an alias at a version, creating it if there is none."""
    same = (aliases.c.model == model) & (aliases.c.alias == alias)
    connection.execute(delete(aliases).where(same))
    connection.execute(insert(aliases).values(model=model, alias=alias, version=version))


def delete_alias(connection: Connection, model: str, alias: str) -> None:
    """Takes an alias away."""
    connection.execute(delete(aliases).where((aliases.c.model == model) & (aliases.c.alias == alias)))


def set_serving_settings(connection: Connection, model: str, settings: Mapping[str, Any]) -> None:
    """Replaces how a model is served."""
    connection.execute(update(models).where(models.c.name == model).values(serving_settings=dict(settings)))


def served(connection: Connection) -> tuple[ServedModel, ...]:
    """Every model with its latest version and every one that an alias names."""
    return tuple(_served(connection, model) for model in _models(connection, select(models).order_by(models.c.name)))


def _served(connection: Connection, model: Model) -> ServedModel:
    numbers = {model.latest_version, *model.aliases.values()}
    query = select(versions).where(versions.c.model == model.name, versions.c.number.in_(sorted(numbers)))
    rows = connection.execute(query.order_by(versions.c.number))
    return ServedModel(model=model, versions=tuple(_version(row) for row in rows))


def _models(connection: Connection, query: Select[Any]) -> list[Model]:
    rows: Sequence[Row[Any]] = connection.execute(query).all()
    named: dict[str, dict[str, int]] = {row.name: {} for row in rows}
    chosen = select(aliases).where(aliases.c.model.in_(list(named))).order_by(aliases.c.alias)
    for row in connection.execute(chosen):
        named[row.model][row.alias] = row.version
    return [
        Model(
            name=r.name,
            create_time=r.create_time,
            latest_version=r.latest_version,
            aliases=named[r.name],
            serving_settings=r.serving_settings,
        )
        for r in rows
    ]


def _version(row: Row[Any]) -> ModelVersion:
    return ModelVersion(**{**row._mapping, "manifest": Manifest.from_json(row.manifest)})


def _without_statistics(manifest: Manifest) -> Manifest:
    report = tuple(dataclasses.replace(entry, beta=(), gamma=()) for entry in manifest.fold_report)
    return dataclasses.replace(manifest, fold_report=report, probe=None)

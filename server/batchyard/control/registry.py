"""Published models: versions numbered per model, aliases, and what should be served. Raises the domain's errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from batchyard.control import names, serving_settings, tokens
from batchyard.control.ledger import MODELS, Ledger, Unit
from batchyard.control.records import Model, ModelVersion, ServedModel
from batchyard.control.store import models as store
from batchyard.endpoint.errors import FieldViolation, InvalidInputError, NotFoundError
from batchyard.failpoints import failpoint


@dataclass(frozen=True, kw_only=True)
class ModelPage:
    """A page of a listing."""

    models: tuple[Model, ...]
    next_page_token: str
    """Empty on the last page."""


@dataclass(frozen=True, kw_only=True)
class VersionPage:
    """A page of a listing."""

    versions: tuple[ModelVersion, ...]
    next_page_token: str
    """Empty on the last page."""


class Registry:
    """The models of this service. Versions come into it with the end of the job that published them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def get_model(self, name: str) -> Model:
        """The model. Raises NotFoundError."""
        return await self._ledger.read(lambda connection: _model(connection, name))

    async def list_models(self, page_size: int = 0, page_token: str = "") -> ModelPage:
        """Models by name. Raises InvalidInputError."""
        size, after = tokens.page_size(page_size), tokens.read_page_token(page_token, "models")
        assert after is None or isinstance(after, str)
        found = await self._ledger.read(lambda connection: store.page(connection, size + 1, after))
        token = tokens.page_token("models", found[size - 1].name) if len(found) > size else ""
        return ModelPage(models=tuple(found[:size]), next_page_token=token)

    async def get_version(self, model: str, version: int | str) -> ModelVersion:
        """The version with this number, or that this alias names. Raises NotFoundError."""
        return await self._ledger.read(lambda connection: version_of(connection, model, version))

    async def list_versions(self, model: str, page_size: int = 0, page_token: str = "") -> VersionPage:
        """The model's versions, newest first. Raises NotFoundError, InvalidInputError."""
        listing = f"versions:{model}"
        size, before = tokens.page_size(page_size), tokens.read_page_token(page_token, listing)
        assert before is None or isinstance(before, int)

        def read(connection: Connection) -> list[ModelVersion]:
            _model(connection, model)
            return store.version_page(connection, model, size + 1, before)

        found = await self._ledger.read(read)
        token = tokens.page_token(listing, found[size - 1].number) if len(found) > size else ""
        return VersionPage(versions=tuple(found[:size]), next_page_token=token)

    async def set_alias(self, model: str, alias: str, version: int) -> Model:
        """Points an alias at a version, creating it if there is none. Raises NotFoundError, InvalidInputError."""
        violations = []
        if names.ALIAS_RULE.fullmatch(alias) is None:
            rule = "1 to 40 characters of a-z, 0-9 and '-', beginning with a letter"
            violations.append(FieldViolation("alias", f"{alias[:80]!r} given; expected {rule}"))
        if version < 1:
            violations.append(FieldViolation("version", f"{version} given; expected a version number, 1 or more"))
        if violations:
            raise InvalidInputError(violations)
        changed = await self._ledger.write(lambda unit: _set_alias(unit, model, alias, version))
        failpoint("alias.after_commit")
        return changed

    async def delete_alias(self, model: str, alias: str) -> Model:
        """Takes an alias away; its version stays. Raises NotFoundError."""
        return await self._ledger.write(lambda unit: _delete_alias(unit, model, alias))

    async def set_serving_settings(self, model: str, given: Mapping[str, Any], mask: Sequence[str]) -> Model:
        """Changes how a model is served; see serving_settings.updated. Raises NotFoundError, InvalidInputError."""

        def write(unit: Unit) -> Model:
            settings = serving_settings.updated(_model(unit.connection, model).serving_settings, given, mask)
            store.set_serving_settings(unit.connection, model, settings)
            unit.models_changed = True
            return _model(unit.connection, model)

        return await self._ledger.write(write)

    async def served(self) -> tuple[ServedModel, ...]:
        """What should be served now: of each model the latest version and every one that an alias names."""
        return await self._ledger.read(store.served)

    async def watch_served(self) -> AsyncIterator[tuple[ServedModel, ...]]:
        """What should be served now, whole, and again after each change. Raises UnavailableError at shutdown."""
        told: tuple[ServedModel, ...] | None = None
        while True:
            position = self._ledger.notices.position(MODELS)
            served = await self.served()
            if served != told:
                yield served
                told = served
            await self._ledger.notices.wait(MODELS, position)


def _model(connection: Connection, name: str) -> Model:
    model = store.find(connection, name)
    if model is None:
        raise _not_found(names.model(name), "MODEL_NOT_FOUND", "`batchyard models` lists those that do")
    return model


def version_of(connection: Connection, model_name: str, which: int | str) -> ModelVersion:
    """The version with this number, or that this alias names. Raises NotFoundError."""
    model = _model(connection, model_name)
    number = which if isinstance(which, int) else _aliased(model, which)
    version = store.find_version(connection, model_name, number)
    if version is None:
        latest = f"the newest version is {model.latest_version}"
        raise _not_found(names.version(model_name, number), "VERSION_NOT_FOUND", latest)
    return version


def _aliased(model: Model, alias: str) -> int:
    if alias not in model.aliases:
        known = ", ".join(sorted(model.aliases)) or "none"
        raise _not_found(f"{names.model(model.name)}@{alias}", "ALIAS_NOT_FOUND", f"the model's aliases: {known}")
    return model.aliases[alias]


def _set_alias(unit: Unit, model: str, alias: str, version: int) -> Model:
    version_of(unit.connection, model, version)
    store.set_alias(unit.connection, model, alias, version)
    unit.models_changed = True
    failpoint("alias.before_commit")
    return _model(unit.connection, model)


def _delete_alias(unit: Unit, model: str, alias: str) -> Model:
    _aliased(_model(unit.connection, model), alias)
    store.delete_alias(unit.connection, model, alias)
    unit.models_changed = True
    return _model(unit.connection, model)


def _not_found(name: str, reason: str, advice: str) -> NotFoundError:
    return NotFoundError(f"{name} does not exist: {advice}", reason=reason, metadata={"name": name})

"""Which version answers to which name. A new version is loaded beside the old one and takes over in one assignment."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchyard.artifact.errors import ArtifactError
from batchyard.endpoint.errors import DomainError, NotFoundError, UnavailableError
from batchyard.serving.engine import EngineError
from batchyard.serving.loading import LoadError, Wanted, load
from batchyard.serving.metrics import Metrics
from batchyard.serving.model import ServedVersion
from batchyard.serving.settings import Limits
from batchyard.serving.tensors import shown

DEFAULT_ALIAS = "production"
"""Answers when a request names no version; a model without it answers with its latest."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WantedModel:
    """What should be served of one model."""

    name: str
    latest: int
    aliases: Mapping[str, int]
    versions: Mapping[int, Wanted]


@dataclass(kw_only=True)
class _Model:
    """What is served of one model."""

    wanted: WantedModel
    versions: dict[int, ServedVersion] = field(default_factory=dict)
    aliases: dict[str, ServedVersion] = field(default_factory=dict)
    latest: ServedVersion | None = None
    failures: dict[int, str] = field(default_factory=dict)
    """Version -> why it is not served."""

    @property
    def default(self) -> ServedVersion | None:
        """Never the latest in place of a production version that failed: that would be another network, silently."""
        return self.aliases.get(DEFAULT_ALIAS) if DEFAULT_ALIAS in self.wanted.aliases else self.latest

    def as_wanted(self) -> WantedModel:
        """What to ask for to have just this again."""
        return WantedModel(
            name=self.wanted.name,
            latest=self.latest.wanted.version if self.latest else self.wanted.latest,
            aliases={alias: served.wanted.version for alias, served in self.aliases.items()},
            versions={number: served.wanted for number, served in self.versions.items()},
        )


class Repository:
    """The served versions. Belongs to one event loop; loads on one thread, runs engines on others."""

    def __init__(self, cache: Path, limits: Limits, metrics: Metrics, engine_threads: int) -> None:
        self._cache = cache
        self._limits = limits
        self._metrics = metrics
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="batchyard-load")
        self._engines = ThreadPoolExecutor(engine_threads, thread_name_prefix="batchyard-engine")
        self._wanted: dict[str, WantedModel] = {}
        self._models: dict[str, _Model] = {}
        self._routes: dict[tuple[str, str], ServedVersion] = {}
        self._informed = False
        self._applying = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    def resolve(self, name: str, version: str) -> ServedVersion:
        """The version that answers to `name` ("mnist" or "mnist@alias") and `version` ("" or a number).

        Raises NotFoundError, or UnavailableError for one that should be served and cannot be, saying why.
        """
        served = self._routes.get((name, version))
        if served is None:
            raise self._why_not(name, version)
        return served

    def versions_of(self, name: str) -> list[str]:
        """Numbers of the served versions of a model, rising."""
        model = self._models.get(name.partition("@")[0])
        return [str(number) for number in sorted(model.versions)] if model else []

    @property
    def informed(self) -> bool:
        """Whether it is known what should be served, and was tried."""
        return self._informed

    @property
    def ready(self) -> bool:
        """Whether every model that should be served answers."""
        return self._informed and all(
            name in self._models and self._models[name].default is not None for name in self._wanted
        )

    @property
    def failures(self) -> dict[tuple[str, int], str]:
        """(Model, version) -> why it is not served although it should be."""
        return {(m.wanted.name, number): why for m in self._models.values() for number, why in m.failures.items()}

    @property
    def serving(self) -> list[WantedModel]:
        """What is served now, in the terms of what was wanted."""
        return [model.as_wanted() for model in self._models.values()]

    async def apply(self, wanted: Sequence[WantedModel]) -> None:
        """Serves what is wanted: loads what is missing, swaps names over, lets go of the rest once it has drained.

        A version that cannot be loaded is tried again at the next call; until then the names that should be its own
        stay with the version that has them.
        """
        async with self._applying:
            self._wanted = {model.name: model for model in wanted}
            for model in wanted:
                await self._apply_model(model)
            for name in self._models.keys() - {model.name for model in wanted}:
                self._drop_model(name)
            self._informed = True

    async def close(self) -> None:
        """Answers what is in flight and frees every engine."""
        for name in list(self._models):
            self._drop_model(name)
        await asyncio.gather(*self._closing)
        self._loader.shutdown(wait=False, cancel_futures=True)
        self._engines.shutdown(wait=False)

    async def _apply_model(self, wanted: WantedModel) -> None:
        before = self._models.get(wanted.name) or _Model(wanted=wanted)
        after = _Model(wanted=wanted)
        for number, version in wanted.versions.items():
            served = before.versions.get(number)
            if served is None or served.wanted.manifest_sha256 != version.manifest_sha256:
                served = await self._load(version, after.failures)
            if served is not None:
                after.versions[number] = served
        _name_versions(before, after)
        self._models[wanted.name] = after
        self._swap_routes(wanted.name, after)
        kept = {id(served) for served in after.versions.values()}
        self._retire(served for served in before.versions.values() if id(served) not in kept)

    async def _load(self, wanted: Wanted, failures: dict[int, str]) -> ServedVersion | None:
        loop = asyncio.get_running_loop()
        log.info("loading %s from %s", wanted.label, wanted.artifact_uri)
        try:
            loaded = await loop.run_in_executor(self._loader, load, wanted, self._cache, self._limits.max_batch)
        except (ArtifactError, EngineError, LoadError) as error:
            failures[wanted.version] = str(error)
            log.error("%s is not served: %s", wanted.label, error)
        except Exception as error:
            failures[wanted.version] = f"{type(error).__name__}; the server's log has the details"
            log.exception("%s is not served", wanted.label)
        else:
            metrics = self._metrics.add_version(wanted.model, str(wanted.version))
            return ServedVersion(wanted, loaded, self._limits, self._engines, metrics)
        self._metrics.load_failures[wanted.model] = self._metrics.load_failures.get(wanted.model, 0) + 1
        return None

    def _swap_routes(self, name: str, model: _Model | None) -> None:
        """Puts a new table in place of the old one: a request sees one or the other, never a mixture."""
        routes = {key: served for key, served in self._routes.items() if key[0].partition("@")[0] != name}
        if model is not None:
            for number, served in model.versions.items():
                routes[name, str(number)] = served
            for alias, served in model.aliases.items():
                routes[f"{name}@{alias}", ""] = routes[f"{name}@{alias}", served.version] = served
            if model.default is not None:
                routes[name, ""] = model.default
                self._metrics.default_versions[name] = model.default.wanted.version
            else:
                self._metrics.default_versions.pop(name, None)
        self._routes = routes

    def _drop_model(self, name: str) -> None:
        model = self._models.pop(name)
        self._swap_routes(name, None)
        self._metrics.remove_model(name)
        self._retire(model.versions.values())

    def _retire(self, versions: Iterable[ServedVersion]) -> None:
        for served in versions:
            self._in_background(self._close(served))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, served: ServedVersion) -> None:
        await served.close()
        self._metrics.remove_version(served.metrics)
        log.info("closed %s", served.wanted.label)

    def _why_not(self, name: str, version: str) -> DomainError:
        base, _, alias = name.partition("@")
        wanted = self._wanted.get(base)
        if wanted is None and not self._informed:
            return UnavailableError("no model is loaded yet: still starting", reason="STARTING")
        if wanted is None:
            known = ", ".join(sorted(self._wanted)[:10]) or "none"
            return NotFoundError(f"no model {shown(name)} is served here; served: {known}", reason="MODEL_NOT_FOUND")
        model = self._models.get(base) or _Model(wanted=wanted)
        number = _number_meant(wanted, alias, version)
        if number in model.failures:
            return UnavailableError(
                f"model {base!r} version {number} could not be loaded: {model.failures[number]}", reason="LOAD_FAILED"
            )
        if number in wanted.versions and number not in model.versions:
            return UnavailableError(f"model {base!r} version {number} is being loaded; try again", reason="LOADING")
        return _no_such_version(model, name, version)


def _no_such_version(model: _Model, name: str, version: str) -> NotFoundError:
    base = model.wanted.name
    versions = ", ".join(str(number) for number in sorted(model.versions)) or "none"
    aliases = ", ".join(f"{base}@{alias}" for alias in sorted(model.aliases)) or "none"
    return NotFoundError(
        f"model {shown(name)}, version {shown(version)}: not served here; versions: {versions}; aliases: {aliases}",
        reason="VERSION_NOT_FOUND",
    )


def _name_versions(before: _Model, after: _Model) -> None:
    """Gives the aliases and `latest` to the versions that should have them.

    Where such a one could not be loaded, the name stays with the version that has it, which then stays served.
    """
    for alias, number in after.wanted.aliases.items():
        if served := after.versions.get(number) or before.aliases.get(alias):
            after.aliases[alias] = served
    after.latest = after.versions.get(after.wanted.latest) or before.latest
    if after.latest is None and after.versions:
        after.latest = after.versions[max(after.versions)]
    for served in (*after.aliases.values(), after.latest):
        if served is not None:
            after.versions.setdefault(served.wanted.version, served)


def _number_meant(wanted: WantedModel, alias: str, version: str) -> int | None:
    if version.isascii() and version.isdigit() and len(version) < 20:
        return int(version)
    if version:
        return None
    return wanted.aliases.get(alias or DEFAULT_ALIAS, None if alias else wanted.latest)

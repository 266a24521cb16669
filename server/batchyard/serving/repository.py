"""The served versions: a new one is loaded beside the old one and takes over in one assignment."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from batchyard.artifact.errors import ArtifactError
from batchyard.endpoint.errors import DomainError, NotFoundError, UnavailableError
from batchyard.serving.engines.precision import Precision
from batchyard.serving.improving import Improver
from batchyard.serving.loading import Loader, LoadError, Wanted
from batchyard.serving.metrics import Metrics
from batchyard.serving.model import ServedVersion
from batchyard.serving.naming import ServedModel, WantedModel, why_nobody_answers
from batchyard.serving.settings import Limits
from batchyard.serving.shadow_watch import ShadowWatch
from batchyard.serving.shift_watch import ShiftWatch
from batchyard.serving.tensors import shown

log = logging.getLogger(__name__)


class Repository:
    """The served versions. Belongs to one event loop; runs engines on threads."""

    def __init__(
        self,
        loader: Loader,
        limits: Limits,
        metrics: Metrics,
        engine_threads: int,
        shift: ShiftWatch,
        shadows: ShadowWatch,
    ) -> None:
        self._loader = loader
        self._limits = limits
        self._metrics = metrics
        self._shift = shift
        self._shadows = shadows
        self._improver = Improver(loader, limits.max_batch)
        self._engines = ThreadPoolExecutor(engine_threads, thread_name_prefix="batchyard-engine")
        self._wanted: dict[str, WantedModel] = {}
        self._models: dict[str, ServedModel] = {}
        self._routes: dict[tuple[str, str], ServedVersion] = {}
        self._informed = False
        self._applying = asyncio.Lock()
        self._withheld: frozenset[str] = frozenset()
        self._closing: dict[asyncio.Task[None], ServedVersion] = {}

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

    def served_versions(self, name: str = "") -> list[ServedVersion]:
        """The versions of one model that are served, or of all."""
        models = [self._models[name]] if name in self._models else [] if name else self._models.values()
        return [served for model in models for _, served in sorted(model.versions.items())]

    def in_order(self) -> bool:
        """Whether no model lets one request go before another."""
        return not any(served.policy.levels > 1 for served in self.served_versions())

    @property
    def closing(self) -> list[tuple[str, int]]:
        """Models and versions that take no more requests and answer those that they have."""
        return [(served.name, served.wanted.version) for served in self._closing.values()]

    @property
    def informed(self) -> bool:
        """Whether it is known what should be served, and was tried: one bad model must not take the others away."""
        return self._informed

    @property
    def ready(self) -> bool:
        """Whether it is known what should be served and every model of it answers, as the protocol means readiness."""
        return self._informed and all(
            name in self._models and self._models[name].default is not None for name in self._wanted
        )

    @property
    def failures(self) -> dict[tuple[str, int], str]:
        """(Model, version) -> why it is not served although it should be."""
        return {(name, number): why for name, model in self._models.items() for number, why in model.failures.items()}

    @property
    def serving(self) -> list[WantedModel]:
        """What is served now, in the terms of what was wanted."""
        return [model.as_wanted() for model in self._models.values()]

    async def apply(self, wanted: Sequence[WantedModel], withheld: frozenset[str] = frozenset()) -> None:
        """Serves what is wanted: loads what is missing, swaps names over, lets go of the rest once it has drained.

        A version that cannot be loaded is tried again at the next call; until then the names that should be its own
        stay with the version that has them. `withheld`: models that would be wanted if no client had unloaded them.
        """
        async with self._applying:
            self._wanted, self._withheld = {model.name: model for model in wanted}, withheld
            for model in wanted:
                await self._apply_model(model)
            for name in self._models.keys() - self._wanted.keys():
                self._drop_model(name)
            self._informed = True

    async def close(self) -> None:
        """Answers what is in flight and frees every engine."""
        for name in list(self._models):
            self._drop_model(name)
        await asyncio.gather(*self._closing)
        self._loader.close()
        self._engines.shutdown(wait=False)

    async def _apply_model(self, wanted: WantedModel) -> None:
        before, after = self._models.get(wanted.name) or ServedModel(wanted=wanted), ServedModel(wanted=wanted)
        for number, version in wanted.versions.items():
            served = before.versions.get(number)
            if served is None or served.wanted.manifest_sha256 != version.manifest_sha256:
                served = await self._load(version, wanted.settings.precision, after.failures)
            if served is not None:
                after.versions[number] = served
        after.name_versions(before)
        for served in after.versions.values():
            await self._change_precision(served, wanted.settings.precision)
            served.change(wanted.settings)
        self._shadows.arrange(after)
        self._models[wanted.name] = after
        self._swap_routes(wanted.name, after)
        kept = {id(served) for served in after.versions.values()}
        self._retire(served for served in before.versions.values() if id(served) not in kept)

    async def _load(self, wanted: Wanted, precision: Precision, failures: dict[int, str]) -> ServedVersion | None:
        """None: it cannot be loaded, and `failures` tells why."""
        log.info("loading %s from %s", wanted.label, wanted.artifact_uri)
        try:
            loaded = await self._loader.load(wanted, self._limits.max_batch, precision)
            log.info("%s is served by %s", wanted.label, loaded.engine.name)
            served = ServedVersion(
                wanted,
                loaded,
                self._limits,
                self._engines,
                self._metrics.add_version(wanted.model, str(wanted.version)),
            )
            served.watch(self._shift.monitor(wanted, loaded.manifest))
            self._improver.offer(served, loaded)
            return served
        except (ArtifactError, LoadError) as error:
            failures[wanted.version] = str(error)
            log.error("%s is not served: %s", wanted.label, error)
        except Exception as error:
            failures[wanted.version] = f"{type(error).__name__}; the server's log has the details"
            log.exception("%s is not served", wanted.label)
        self._metrics.load_failed(wanted.model)
        return None

    async def _change_precision(self, served: ServedVersion, precision: Precision) -> None:
        """Its engines are chosen anew while it serves; one that cannot be had leaves the version as it is."""
        if served.precision == precision:
            return
        await self._improver.give_up(served)
        try:
            loaded = await self._loader.load(served.wanted, self._limits.max_batch, precision)
            await served.take_over(loaded)
        except Exception:
            log.exception("%s stays in %s: %s was asked for", served.wanted.label, served.precision, precision)
            served.stop_measuring()
        else:
            self._improver.offer(served, loaded)

    def _swap_routes(self, name: str, model: ServedModel | None) -> None:
        """Puts a new table in place of the old one: a request sees one or the other, never a mixture."""
        others = {key: served for key, served in self._routes.items() if served.name != name}
        self._routes = {**others, **(model.routes() if model else {})}
        default = model.default if model else None
        self._metrics.default_version(name, default.wanted.version if default else None)

    def _drop_model(self, name: str) -> None:
        model = self._models.pop(name)
        self._swap_routes(name, None)
        self._metrics.remove_model(name)
        self._retire(model.versions.values())

    def _retire(self, versions: Iterable[ServedVersion]) -> None:
        for served in versions:
            task = asyncio.get_running_loop().create_task(self._close(served))
            self._closing[task] = served
            task.add_done_callback(self._closing.pop)

    async def _close(self, served: ServedVersion) -> None:
        await self._improver.give_up(served)
        await served.close()
        self._metrics.remove_version(served.metrics)
        log.info("closed %s", served.wanted.label)

    def _why_not(self, name: str, version: str) -> DomainError:
        base = name.partition("@")[0]
        wanted = self._wanted.get(base)
        if wanted is not None:
            return why_nobody_answers(wanted, self._models.get(base), name, version)
        if base in self._withheld:
            return UnavailableError(f"model {base!r} was unloaded from this server by a client", reason="UNLOADED")
        if not self._informed:
            return UnavailableError("no model is loaded yet: still starting", reason="STARTING")
        known = ", ".join(sorted(self._wanted)[:10]) or "none"
        return NotFoundError(f"no model {shown(name)} is served here; served: {known}", reason="MODEL_NOT_FOUND")

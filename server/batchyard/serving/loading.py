"""From a version that should be served to an engine that may serve it, beside others that serve meanwhile.

The first engine that holds the certificate serves at once; the others are tried afterwards, and the fastest takes over.
A table of times from before, of the same graph on the same machine, saves the detour.

What works hard yields the cores: fetching and verifying on threads for that (aside.py), the measurements in processes
of their own. Engines are opened there, too, unless that starts threads that their batches will run on
(engines/pools.py), and held against their certificates in short runs with rests between.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from batchyard.artifact.manifest import Manifest
from batchyard.artifact.reader import Samples, fetch_and_verify, read_samples
from batchyard.serving.aside import Aside
from batchyard.serving.engines import timings as tables
from batchyard.serving.engines.beside import Unhurried, rest
from batchyard.serving.engines.catalogue import CATALOGUE, allowed
from batchyard.serving.engines.certificate import check_against_certificate
from batchyard.serving.engines.choice import choose
from batchyard.serving.engines.chosen import no_rest, open_chosen, open_first, warm_up
from batchyard.serving.engines.graph_digest import graph_digest
from batchyard.serving.engines.interface import Engine, EngineError, Network
from batchyard.serving.engines.measuring import measured
from batchyard.serving.engines.pools import ThreadPools
from batchyard.serving.engines.precision import Precision
from batchyard.serving.engines.priority import LOWER_PRIORITY
from batchyard.serving.engines.timings import Share, Timings, Trial

T = TypeVar("T")


class LoadError(Exception):
    """The version must not be served; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A version that should be served, as the control plane names it."""

    model: str
    version: int
    artifact_uri: str
    manifest_sha256: str

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.model!r} version {self.version}"


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A verified artifact on this machine's disk."""

    folder: Path
    manifest: Manifest
    samples: Samples
    """Of the certificate."""
    graph: str
    """Digest of what its times depend on."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A verified, certified and warmed-up network."""

    fetched: Fetched
    engine: Engine
    timings: Timings
    """Which engines were tried, their times, and why this one serves."""
    seconds_per_batch: float
    """Of a full batch, measured."""
    precision: Precision = "fp32"
    """What its engines may compute in."""

    @property
    def manifest(self) -> Manifest:
        """What is said of the network."""
        return self.fetched.manifest


def folder_of(wanted: Wanted, cache: Path) -> Path:
    """Where a version's artifact is kept: one folder for each manifest, so that no two can be mixed up."""
    return cache / "artifacts" / wanted.model / f"{wanted.version}-{wanted.manifest_sha256[:16]}"


def tables_of(fetched: Fetched, cache: Path, precision: Precision = "fp32") -> tuple[Path, Path]:
    """Where a version's own times are kept, and those of all versions of the same graph, for models so precise."""
    name = tables.FILES[precision]
    return fetched.folder / name, cache / "engines" / f"{fetched.graph[:32]}{name.removeprefix('engines')}"


class Loader:
    """Loads versions, one after the other. Belongs to one event loop."""

    def __init__(self, cache: Path, engines: tuple[str, ...]) -> None:
        """`engines`: the names of those that may serve."""
        self._cache = cache
        self._engines = engines
        self._aside = Aside()
        self._pools = ThreadPools()
        self._measuring = asyncio.Lock()
        self._others_serve = False
        """Whether a version was loaded before."""

    async def load(self, wanted: Wanted, max_batch: int, precision: Precision = "fp32") -> Loaded:
        """Fetches and verifies the artifact and opens an engine that holds its certificate, warmed up.

        It is the one that a table from before names, or else the first one that can: its `timings.measuring` says that
        `improve` should follow. Raises LoadError, or ArtifactError, which name the file, the tensor, or each engine and
        why it was refused.
        """
        loaded = await self._load(wanted, max_batch, precision)
        self._others_serve = True
        return dataclasses.replace(loaded, precision=precision)

    async def _load(self, wanted: Wanted, max_batch: int, precision: Precision) -> Loaded:
        fetched = await self._quietly(_fetch, wanted, folder_of(wanted, self._cache))
        engines = allowed(self._engines, precision)
        conditions = await asyncio.to_thread(tables.conditions_here, engines, max_batch)  # reads files
        known = self._known(fetched, conditions, precision)
        if known is not None and (loaded := await self._open_fastest(fetched, known, max_batch)):
            return loaded
        refused = {
            name: f"computes in {CATALOGUE[name].precision}, and the model's precision is {precision}"
            for name in self._engines
            if name not in engines
        }
        for name in engines:
            try:
                engine, share = await asyncio.to_thread(open_first, _network(fetched), name, max_batch)
                self._pools.started((share,))
                seconds = await self._quietly(_prove, engine, fetched, max_batch, self._others_serve)
            except EngineError as error:
                refused[name] = str(error)
            else:
                timings = Timings(conditions=conditions, trials=(), chosen=(share,), measuring=True)
                return Loaded(fetched=fetched, engine=engine, timings=timings, seconds_per_batch=seconds)
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise LoadError(f"no engine may serve {wanted.label}: {reasons}")

    async def improve(self, wanted: Wanted, loaded: Loaded, max_batch: int) -> Loaded:
        """Tries every engine, one version's at a time, and keeps the table.

        Returns what should serve from now on: with an engine of its own, or that of `loaded` if it is the fastest.
        """
        async with self._measuring:
            fetched, precision = loaded.fetched, loaded.precision
            made = self._known(fetched, loaded.timings.conditions, precision)  # a version of the same graph, just now
            if made is None:
                made = await measured(fetched.folder, allowed(self._engines, precision), max_batch, LOWER_PRIORITY)
                made = dataclasses.replace(made, measured_on=wanted.label)
                self._keep(fetched, made, precision)
        if made.chosen != loaded.timings.chosen:
            faster = await self._open_fastest(fetched, made, max_batch)
            if faster is not None:
                return dataclasses.replace(faster, precision=precision)
        return dataclasses.replace(loaded, timings=dataclasses.replace(made, chosen=loaded.timings.chosen))

    def close(self) -> None:
        """Loads no more; does not wait."""
        self._aside.close()

    def _known(self, fetched: Fetched, conditions: Mapping[str, Any], precision: Precision) -> Timings | None:
        """The first table that was made under these conditions."""
        found = (tables.read(file, conditions) for file in tables_of(fetched, self._cache, precision))
        return next((table for table in found if table is not None), None)

    def _keep(self, fetched: Fetched, made: Timings, precision: Precision) -> None:
        own, of_the_graph = tables_of(fetched, self._cache, precision)
        if made.chosen:
            tables.write(own, made)
            if made.holds_for_other_weights:
                tables.write(of_the_graph, made)

    async def _open_fastest(self, fetched: Fetched, timings: Timings, max_batch: int) -> Loaded | None:
        """The engine that the table names, or the next best if the certificate refuses that; None: nobody is left."""
        while timings.chosen:
            try:
                engine = await self._open(fetched, timings.chosen)
                await self._quietly(_prove, engine, fetched, max_batch, self._others_serve)
            except EngineError as error:
                timings = _without_the_chosen(timings, str(error), max_batch)
            else:
                seconds = _chosen_trial(timings).seconds_for(max_batch)
                return Loaded(fetched=fetched, engine=engine, timings=timings, seconds_per_batch=seconds)
        return None

    async def _open(self, fetched: Fetched, chosen: Sequence[Share]) -> Engine:
        """At low priority where that leaves the batches' threads as they are. Raises EngineError."""
        if self._pools.suffice_for(chosen):
            return await self._quietly(open_chosen, _network(fetched), chosen)
        engine = await asyncio.to_thread(open_chosen, _network(fetched), chosen)
        self._pools.started(chosen)
        return engine

    async def _quietly(self, work: Callable[..., T], *arguments: object) -> T:
        return await self._aside.run(work, *arguments, others_serve=self._others_serve)


def _fetch(wanted: Wanted, folder: Path) -> Fetched:
    manifest = fetch_and_verify(wanted.artifact_uri, wanted.manifest_sha256, folder)
    if manifest.model != wanted.model:
        raise LoadError(f"{wanted.artifact_uri} is an artifact of model {manifest.model!r}, not of {wanted.model!r}")
    if len(manifest.inputs) != 1 or len(manifest.outputs) != 1:
        raise LoadError(f"{wanted.artifact_uri} has {len(manifest.inputs)} inputs and {len(manifest.outputs)} outputs")
    return Fetched(folder=folder, manifest=manifest, samples=read_samples(folder), graph=graph_digest(manifest, folder))


def _network(fetched: Fetched) -> Network:
    return Network.of(fetched.manifest, fetched.folder)


def _prove(engine: Engine, fetched: Fetched, max_batch: int, others_serve: bool) -> float:
    """Checks the engine that will serve, wherever another one like it was tried; seconds of a full batch."""
    try:
        checked = Unhurried(engine) if others_serve else engine
        check_against_certificate(checked, fetched.samples, fetched.manifest.certificate.bound, max_batch)
        row_shape = fetched.manifest.inputs[0].shape[1:]
        return warm_up(engine, row_shape, max_batch, rest if others_serve else no_rest)
    except Exception:
        engine.close()
        raise


def _chosen_trial(timings: Timings) -> Trial:
    """Of the engine for the largest batches."""
    last = timings.chosen[-1]
    return next(trial for trial in timings.trials if (trial.engine, trial.threads) == (last.engine, last.threads))


def _without_the_chosen(timings: Timings, reason: str, max_batch: int) -> Timings:
    chosen = {(share.engine, share.threads) for share in timings.chosen}
    trials = tuple(
        dataclasses.replace(trial, passed=False, reason=f"while the server opened it: {reason}")
        if (trial.engine, trial.threads) in chosen
        else trial
        for trial in timings.trials
    )
    return dataclasses.replace(timings, trials=trials, chosen=choose(trials, max_batch))

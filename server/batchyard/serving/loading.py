"""From a version that should be served to an engine that may serve it, beside others that serve meanwhile.

What works hard works at low priority: fetching, verifying and warming up on a thread that yields the cores, the
measurements in processes of their own, which yield where others are served. Only the opening of the chosen engine is
done at normal priority, because the threads that it starts for its batches inherit the priority of the thread that
opens it, and keep it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from batchyard.artifact.manifest import Manifest
from batchyard.artifact.reader import Samples, fetch_and_verify, read_samples
from batchyard.serving.engines.certificate import check_against_certificate
from batchyard.serving.engines.choice import choose
from batchyard.serving.engines.chosen import open_chosen, warm_up
from batchyard.serving.engines.interface import Engine, EngineError, Network
from batchyard.serving.engines.measuring import measured
from batchyard.serving.engines.timings import Timings, Trial
from batchyard.serving.engines.trial import LOWER_PRIORITY


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
class Loaded:
    """A verified, certified and warmed-up network."""

    manifest: Manifest
    engine: Engine
    timings: Timings
    """Which engines were tried, their times, and why this one serves."""
    seconds_per_batch: float
    """Of a full batch, measured."""


def folder_of(wanted: Wanted, cache: Path) -> Path:
    """Where a version's artifact is kept: one folder for each manifest, so that no two can be mixed up."""
    return cache / "artifacts" / wanted.model / f"{wanted.version}-{wanted.manifest_sha256[:16]}"


class Loader:
    """Loads versions, one after the other. Belongs to one event loop."""

    def __init__(self, cache: Path, engines: tuple[str, ...]) -> None:
        """`engines`: the names of those that may serve."""
        self._cache = cache
        self._engines = engines
        self._quiet = ThreadPoolExecutor(1, thread_name_prefix="batchyard-load", initializer=_lower_priority)

    async def load(self, wanted: Wanted, max_batch: int, *, quietly: bool = False) -> Loaded:
        """Fetches and verifies the artifact, measures the engines, opens the chosen one, checks it and warms it up.

        `quietly`: at low priority, because others are served meanwhile.
        Raises LoadError, or ArtifactError, which name the file, the tensor, or each engine and why it was refused.
        """
        loop = asyncio.get_running_loop()
        folder = folder_of(wanted, self._cache)
        manifest, samples = await loop.run_in_executor(self._quiet, _fetch, wanted, folder)
        timings = await measured(folder, self._engines, max_batch, LOWER_PRIORITY if quietly else 0)
        network = Network.of(manifest, folder)
        while timings.chosen:
            engine: Engine | None = None
            try:
                engine = await asyncio.to_thread(open_chosen, network, timings.chosen)
                await loop.run_in_executor(self._quiet, _prove, engine, manifest, samples, max_batch)
            except EngineError as error:
                timings = _without_the_chosen(timings, str(error), max_batch)
            else:
                seconds = _chosen_trial(timings).seconds_for(max_batch)
                return Loaded(manifest=manifest, engine=engine, timings=timings, seconds_per_batch=seconds)
        raise LoadError(f"no engine may serve {wanted.label}: {_refusals(timings)}")

    def close(self) -> None:
        """Loads no more; does not wait."""
        self._quiet.shutdown(wait=False, cancel_futures=True)


def _lower_priority() -> None:
    """On Linux a thread has a priority of its own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWER_PRIORITY)


def _fetch(wanted: Wanted, folder: Path) -> tuple[Manifest, Samples]:
    manifest = fetch_and_verify(wanted.artifact_uri, wanted.manifest_sha256, folder)
    if manifest.model != wanted.model:
        raise LoadError(f"{wanted.artifact_uri} is an artifact of model {manifest.model!r}, not of {wanted.model!r}")
    if len(manifest.inputs) != 1 or len(manifest.outputs) != 1:
        raise LoadError(f"{wanted.artifact_uri} has {len(manifest.inputs)} inputs and {len(manifest.outputs)} outputs")
    return manifest, read_samples(folder)


def _prove(engine: Engine, manifest: Manifest, samples: Samples, max_batch: int) -> None:
    """The engine that will serve, not the one that was tried in another process: it too must hold the certificate."""
    try:
        check_against_certificate(engine, samples, manifest.certificate.bound, max_batch)
        warm_up(engine, manifest.inputs[0].shape[1:], max_batch)
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


def _refusals(timings: Timings) -> str:
    """Every engine's reason, once."""
    reasons = dict.fromkeys(f"{trial.engine}: {trial.reason}" for trial in timings.trials)
    return "; ".join(reasons)

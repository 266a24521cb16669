"""Gives the version that serves its shadow; owns the thread that shadows run on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from batchyard.artifact.manifest import Manifest
from batchyard.artifact.reader import read_samples
from batchyard.serving.engines.catalogue import open_engine
from batchyard.serving.engines.certificate import check_against_certificate
from batchyard.serving.engines.interface import Engine, Network
from batchyard.serving.engines.priority import lower_priority
from batchyard.serving.loading import folder_of
from batchyard.serving.model import ServedVersion
from batchyard.serving.naming import ServedModel
from batchyard.serving.shadow import MOST_ROWS, Shadow

SHADOW_ALIAS = "shadow"
"""Names the version that gets copies of the requests to the version that serves."""


class ShadowWatch:
    """Makes shadows. All models share one thread, so that together they take at most one core."""

    def __init__(self, cache: Path) -> None:
        """`cache` holds the verified artifacts."""
        self._cache = cache
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="batchyard-shadow", initializer=lower_priority)

    def arrange(self, model: ServedModel) -> None:
        """Puts the version with the alias `shadow` beside the one that serves, and nothing beside any other."""
        for served in model.versions.values():
            wanted = self._shadow_of(served, model) if served is model.default else None
            if served.shadow is not wanted:
                served.set_shadow(wanted)

    def close(self) -> None:
        """Waits for the run under way, a few hundredths of a second, and for the engines to be freed."""
        self._executor.shutdown()

    def _shadow_of(self, served: ServedVersion, model: ServedModel) -> Shadow | None:
        """What should stand beside `served`: the one that does if it is the same."""
        shadow, share = model.aliases.get(SHADOW_ALIAS), model.wanted.settings.shadow_share
        if shadow is None or shadow is served or not share:
            return None
        if served.shadow is not None and served.shadow.version == shadow.version:
            if served.shadow.share != share:
                served.shadow.take_share(share)
            return served.shadow
        return Shadow(
            shadow.version,
            share,
            shadow.input.shape[1:],
            partial(_open, shadow.timings.chosen[-1].engine, folder_of(shadow.wanted, self._cache), shadow.manifest),
            self._executor,
            _why_not(served.manifest, shadow.manifest),
        )


def _open(engine: str, folder: Path, manifest: Manifest) -> Engine:
    """An engine of the shadow's own, with one thread: the one that runs it, at low priority. Raises EngineError."""
    opened = open_engine(engine, Network.of(manifest, folder), 1)
    try:
        check_against_certificate(opened, read_samples(folder), manifest.certificate.bound, MOST_ROWS)
    except Exception:
        opened.close()
        raise
    return opened


def _why_not(one: Manifest, other: Manifest) -> str:
    """Why the answers of two versions cannot be compared; empty: they can."""
    if one.inputs[0].shape != other.inputs[0].shape:
        return f"it takes {list(other.inputs[0].shape)}; the version that serves {list(one.inputs[0].shape)}"
    if one.classes != other.classes:
        return f"it has other classes ({len(other.classes)}) than the version that serves ({len(one.classes)})"
    return ""

"""How a dataset is loaded: what the job says of it, and where this machine keeps what it has fetched or decoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

CACHE_VARIABLE = "BATCHYARD_CACHE"
"""The environment variable that names the cache folder."""
FETCH_VARIABLE = "BATCHYARD_FETCH"
"""The environment variable that, set to `no`, keeps published datasets from being fetched."""


def cache_folder(environment: Mapping[str, str]) -> Path:
    """$BATCHYARD_CACHE, else batchyard below the user's cache folder (XDG Base Directory Specification)."""
    if chosen := environment.get(CACHE_VARIABLE):
        return Path(chosen)
    home = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", "/tmp")) / ".cache"
    return Path(home) / "batchyard"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be said about loading a dataset, besides its name. The defaults suit the built-in ones."""

    image_size: int | None = None
    """Images are scaled and cropped to this many pixels square; None: they must be of one size already."""
    test_share: float = 0.2
    """Share of the samples held out for testing where a dataset has no test part of its own."""
    on_error: str = "fail"
    """What a corrupt image does: fail, or skip (the sample is left out)."""
    cache: str = "auto"
    """memory: decode once and keep; stream: decode while training; auto: memory where it fits."""
    workers: int = 0
    """Threads that decode; 0: as many as this process has cores."""
    most_bytes: int | None = None
    """With cache auto, decoded data larger than this is streamed; None: than half of the memory."""
    folder: Path = field(default_factory=lambda: cache_folder(os.environ))
    """Where decoded images and fetched files are kept; may be emptied whenever no job runs."""
    fetch: bool = field(default_factory=lambda: os.environ.get(FETCH_VARIABLE, "").lower() not in ("no", "0", "false"))
    """Whether a published dataset that no data folder holds is fetched from where it was published."""
    log: Callable[[str], None] = field(default=lambda text: None)
    """Told by whoever does it what takes time, in sentences for people."""
    note: Callable[[str], None] = field(default=lambda text: None)
    """Told what holds of the dataset, the same by every worker that loads it."""

    @property
    def threads(self) -> int:
        """How many threads decode."""
        return self.workers or len(os.sched_getaffinity(0))

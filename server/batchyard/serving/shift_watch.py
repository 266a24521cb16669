"""Gives each served version its shift monitor; owns the thread that probes run on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from batchyard.artifact.manifest import Manifest
from batchyard.serving.loading import Wanted, folder_of
from batchyard.serving.shift_monitor import ShiftMonitor
from batchyard.serving.shift_probe import Probe


class ShiftWatch:
    """Makes monitors. All versions share one thread, so that together they take at most one core."""

    def __init__(self, rate: float, keep_rows: int, cache: Path) -> None:
        """`rate` is the share of the requests to measure, 0: none; `cache` holds the verified artifacts."""
        self._rate = rate
        self._keep_rows = keep_rows
        self._cache = cache
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="batchyard-shift")

    def monitor(self, wanted: Wanted, manifest: Manifest) -> ShiftMonitor | None:
        """A monitor for a version that is in the cache; None where there is nothing to measure."""
        if not self._rate or manifest.probe is None or not manifest.probe.layers:
            return None
        open_probe = partial(Probe, folder_of(wanted, self._cache), manifest)
        return ShiftMonitor(wanted.label, manifest.probe, open_probe, self._rate, self._executor, self._keep_rows)

    def close(self) -> None:
        """Waits for the run under way, a hundredth of a second, and starts no other."""
        self._executor.shutdown(cancel_futures=True)

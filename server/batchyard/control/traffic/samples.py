"""An inference plane's Prometheus text as numbers that add up. Pure."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

Counted = Mapping[str, tuple[float, ...]]
"""What only grows: requests, rows, "refused CODE" as one number each; LATENCY, QUEUE and BATCHES by bucket."""
Bounds = Mapping[str, tuple[float, ...]]
"""Histogram -> upper bounds of its buckets, the last one infinite."""
Key = tuple[str, str]
"""Model and version; both empty: requests that named no served version."""

REQUESTS, ROWS, REFUSED = "requests", "rows", "refused "
LATENCY, QUEUE, BATCHES = "latency", "queue", "batches"

PREFIX = "batchyard_inference_"
COUNTERS = {"requests_total": REQUESTS, "rows_total": ROWS}
HISTOGRAMS = {
    "request_duration_seconds_bucket": LATENCY,
    "queue_duration_seconds_bucket": QUEUE,
    "batch_rows_bucket": BATCHES,
}


@dataclass(kw_only=True)
class VersionSample:
    """One version at one moment."""

    counted: dict[str, tuple[float, ...]] = field(default_factory=dict)
    queued_rows: float = 0.0
    shift: float | None = None
    layers: dict[str, float] = field(default_factory=dict)
    """Layer -> its shift."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A whole plane at one moment."""

    versions: Mapping[Key, VersionSample]
    bounds: Bounds


def read(text: str) -> Sample:
    """What a plane says in Prometheus' text format. Raises ValueError for what is not that."""
    versions: dict[Key, VersionSample] = defaultdict(VersionSample)
    buckets: dict[tuple[Key, str], list[tuple[float, float]]] = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.startswith(PREFIX) or "version" not in sample.labels:
                continue
            name, key = sample.name.removeprefix(PREFIX), (sample.labels["model"], sample.labels["version"])
            if name in HISTOGRAMS:
                buckets[key, HISTOGRAMS[name]].append((float(sample.labels["le"]), sample.value))
            else:
                _take(versions[key], name, sample.labels, sample.value)
    bounds: dict[str, tuple[float, ...]] = {}
    for (key, histogram), cumulated in buckets.items():
        cumulated.sort()
        bounds[histogram] = tuple(bound for bound, _ in cumulated)
        below = [0.0, *(count for _, count in cumulated)]
        versions[key].counted[histogram] = tuple(after - before for before, after in itertools.pairwise(below))
    return Sample(versions=dict(versions), bounds=bounds)


def _take(version: VersionSample, name: str, labels: Mapping[str, str], value: float) -> None:
    match name:
        case "requests_total" | "rows_total":
            version.counted[COUNTERS[name]] = (value,)
        case "failures_total":
            version.counted[REFUSED + labels["code"]] = (value,)
        case "queued_rows":
            version.queued_rows = value
        case "shift":
            version.shift = value
        case "layer_shift":
            version.layers[labels["layer"]] = value


def since(now: Counted, before: Counted) -> dict[str, tuple[float, ...]]:
    """How much was counted between two moments; a counter that fell was begun anew by a restart, and is all new."""
    found = {}
    for name, values in now.items():
        earlier = before.get(name, (0.0,) * len(values))
        anew = len(earlier) != len(values) or any(a < b for a, b in zip(values, earlier, strict=True))
        found[name] = values if anew else tuple(a - b for a, b in zip(values, earlier, strict=True))
    return found


def total(of: list[Counted]) -> dict[str, tuple[float, ...]]:
    """The sum of several."""
    found: dict[str, tuple[float, ...]] = {}
    for counted in of:
        for name, values in counted.items():
            found[name] = tuple(map(sum, zip(found.get(name, (0.0,) * len(values)), values, strict=True)))
    return found


def quantile(share: float, counts: tuple[float, ...], bounds: tuple[float, ...]) -> float:
    """The value below which `share` of those in the buckets lie, as Prometheus' histogram_quantile has it.

    Within a bucket they are taken to be spread evenly; beyond the last bound it is that bound. Raises ValueError where
    there are none.
    """
    everything = sum(counts)
    if everything <= 0:
        raise ValueError("the buckets are empty: nothing has a quantile")
    below, low = 0.0, 0.0
    for count, bound in zip(counts, bounds, strict=True):
        if count > 0 and below + count >= share * everything:
            return low if math.isinf(bound) else low + (bound - low) * (share * everything - below) / count
        below += count
        low = low if math.isinf(bound) else bound
    return low

"""The inference plane's Prometheus metrics, all named batchyard_inference_*.

The hot path adds to plain Python numbers on the event loop; a collector turns them into families when somebody scrapes.
prometheus_client's own counters take a lock and about a microsecond for each change: too much for six changes a
request. A version's series exist while it is served and go with it.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from batchyard.serving.shadow import ShadowReport
from batchyard.serving.shadow_metrics import shadow_families
from batchyard.serving.shift_metrics import shift_families
from batchyard.serving.shift_report import ShiftReport
from batchyard.serving.triton_metrics import triton_text

SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds of the buckets of every duration."""
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
"""Upper bounds of the buckets of the batch size."""

UNKNOWN_MODEL = ("", "")
"""Labels of requests that named no served version: callers must not be able to make series."""


_as_go: Callable[[float], str] = floatToGoString


class Histogram:
    """Counts in buckets, for one thread."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Adds one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, values up to it), the last one +Inf, as Prometheus writes them."""
        below, cumulated = 0, []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            below += count
            cumulated.append((_as_go(bound), float(below)))
        return cumulated


class Batches:
    """Batches of one size."""

    __slots__ = ("count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0


class VersionMetrics:
    """What one served version counts."""

    def __init__(self, model: str, version: str) -> None:
        self.labels = (model, version)
        self.requests = 0
        self.rows = 0
        self.failures: dict[str, int] = {}
        self.failed_seconds = 0.0
        self.request_seconds = Histogram(SECONDS)
        self.queue_seconds = Histogram(SECONDS)
        self.engine_seconds = Histogram(SECONDS)
        self.batches: dict[int, Batches] = {}
        """Rows of a batch -> the batches that had so many."""
        self.compute_seconds = 0.0
        """Each request's batch in the engine, all requests together."""
        self.last_batch = 0.0
        """Seconds since the epoch when a batch ended; 0: none has."""
        self.queued_rows: Callable[[], int] = lambda: 0
        self.queued_requests: Callable[[], int] = lambda: 0
        self.shift: Callable[[], ShiftReport] | None = None
        """Tells the shift of live data; None: nobody measures it."""
        self.shadow: Callable[[], ShadowReport] | None = None
        """Tells how its shadow compares; None: it has none."""

    def batch_ran(self, rows: int, seconds: float, requests: int = 1) -> None:
        """The engine took `seconds` for a batch of `rows`, those of so many `requests`."""
        self.engine_seconds.observe(seconds)
        batches = self.batches.get(rows)
        if batches is None:
            batches = self.batches[rows] = Batches()
        batches.count += 1
        batches.seconds += seconds
        self.compute_seconds += requests * seconds
        self.last_batch = time.time()

    def engine_rows_and_seconds(self) -> tuple[int, float]:
        """Rows that the engine has run, and the seconds that it took."""
        rows = sum(rows * batches.count for rows, batches in self.batches.items())
        return rows, self.engine_seconds.total

    @property
    def batch_rows(self) -> Histogram:
        """The batches by their rows."""
        histogram = Histogram(ROWS)
        for rows, batches in self.batches.items():
            histogram.counts[bisect_left(ROWS, rows)] += batches.count
            histogram.total += rows * batches.count
        return histogram

    def request_waited(self, seconds: float) -> None:
        """A request left the queue for the engine after `seconds`."""
        self.queue_seconds.observe(seconds)

    def answered(self, rows: int, seconds: float) -> None:
        """A request of `rows` was answered `seconds` after it was read."""
        self.requests += 1
        self.rows += rows
        self.request_seconds.observe(seconds)

    def failed(self, code: str, seconds: float = 0.0) -> None:
        """A request was answered with this gRPC code instead, `seconds` after it was read."""
        self.requests += 1
        self.failed_seconds += seconds
        self.failures[code] = self.failures.get(code, 0) + 1


class Metrics(Collector):
    """Every series of one inference plane, in a registry of its own."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, str], VersionMetrics] = {UNKNOWN_MODEL: VersionMetrics(*UNKNOWN_MODEL)}
        self._default_versions: dict[str, int] = {}
        self._load_failures: dict[str, int] = {}
        self.control_connected = False
        """Whether the control plane is being followed."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    @property
    def unknown(self) -> VersionMetrics:
        """For requests that named no served version."""
        return self._versions[UNKNOWN_MODEL]

    def add_version(self, model: str, version: str) -> VersionMetrics:
        """Begins a version's series, in place of those of an earlier load of it."""
        added = self._versions[model, version] = VersionMetrics(model, version)
        return added

    def remove_version(self, version: VersionMetrics) -> None:
        """Ends a version's series, unless another load of the same version has taken them over."""
        if self._versions.get(version.labels) is version:
            del self._versions[version.labels]

    def default_version(self, model: str, version: int | None) -> None:
        """Who answers when a request names no version; None: nobody."""
        self._default_versions.pop(model, None)
        if version is not None:
            self._default_versions[model] = version

    def load_failed(self, model: str) -> None:
        """A version of this model was refused or could not be loaded."""
        self._load_failures[model] = self._load_failures.get(model, 0) + 1

    def remove_model(self, model: str) -> None:
        """Ends the series of a model that is served no more."""
        self._default_versions.pop(model, None)
        self._load_failures.pop(model, None)

    def render(self) -> bytes:
        """The text format."""
        served = (version for version in self._versions.values() if version.labels != UNKNOWN_MODEL)
        return generate_latest(self._registry) + triton_text(served).encode()

    def collect(self) -> Iterable[Metric]:
        """Called by the registry for each scrape."""
        yield from self._counters()
        yield from self._histograms()
        yield from self._gauges()
        versions = self._versions.values()
        yield from shift_families(PREFIX, ((v.labels, v.shift()) for v in versions if v.shift is not None))
        yield from shadow_families(PREFIX, ((v.labels, v.shadow()) for v in versions if v.shadow is not None))

    def _counters(self) -> Iterable[Metric]:
        labels = ["model", "version"]
        requests = CounterMetricFamily(f"{PREFIX}_requests", "Requests, failed ones too.", labels=labels)
        rows = CounterMetricFamily(f"{PREFIX}_rows", "Rows of the requests that were answered.", labels=labels)
        failures = CounterMetricFamily(
            f"{PREFIX}_failures", "Requests that were not answered, by gRPC code.", labels=[*labels, "code"]
        )
        loads = CounterMetricFamily(f"{PREFIX}_load_failures", "Versions refused or not loadable.", labels=["model"])
        for version in self._versions.values():
            requests.add_metric(version.labels, version.requests)
            rows.add_metric(version.labels, version.rows)
            for code, count in version.failures.items():
                failures.add_metric([*version.labels, code], count)
        for model, count in self._load_failures.items():
            loads.add_metric([model], count)
        return requests, rows, failures, loads

    def _histograms(self) -> Iterable[Metric]:
        for name, help_text, histogram_of in HISTOGRAMS:
            family = HistogramMetricFamily(f"{PREFIX}_{name}", help_text, labels=["model", "version"])
            for version in self._versions.values():
                if version.labels != UNKNOWN_MODEL:
                    histogram = histogram_of(version)
                    family.add_metric(version.labels, histogram.buckets(), histogram.total)
            yield family

    def _gauges(self) -> Iterable[Metric]:
        queued = GaugeMetricFamily(
            f"{PREFIX}_queued_rows", "Rows that wait for the engine.", labels=["model", "version"]
        )
        for version in self._versions.values():
            if version.labels != UNKNOWN_MODEL:
                queued.add_metric(version.labels, version.queued_rows())
        default = GaugeMetricFamily(
            f"{PREFIX}_model_version", "The version that answers when a request names none.", labels=["model"]
        )
        for model, number in self._default_versions.items():
            default.add_metric([model], number)
        connected = GaugeMetricFamily(
            f"{PREFIX}_control_connected",
            "1 while the control plane is being followed, else 0.",
            self.control_connected,
        )
        return queued, default, connected


PREFIX = "batchyard_inference"
HISTOGRAMS: tuple[tuple[str, str, Callable[[VersionMetrics], Histogram]], ...] = (
    (
        "request_duration_seconds",
        "From a request's arrival in its handler to its answer; answered requests.",
        lambda version: version.request_seconds,
    ),
    (
        "queue_duration_seconds",
        "From a request's arrival in the queue to the start of its batch.",
        lambda version: version.queue_seconds,
    ),
    ("engine_duration_seconds", "One batch in the engine.", lambda version: version.engine_seconds),
    ("batch_rows", "Rows of one batch.", lambda version: version.batch_rows),
)

"""A version's shadow for Prometheus: what rises as counters, so that a rate over any time can be taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from batchyard.serving.shadow import ShadowReport

ValueOf = Callable[[ShadowReport], float | None]

COUNTERS: tuple[tuple[str, str, ValueOf], ...] = (
    ("rows", "Rows whose answers were compared with the shadow's.", lambda report: report.compared.rows),
    ("agreeing_rows", "Rows for which both name the same class.", lambda report: report.compared.agreeing),
    ("dropped_rows", "Copied rows not compared because too many waited.", lambda report: report.dropped_rows),
    ("failed_rows", "Copied rows on which the shadow failed.", lambda report: report.failed_rows),
    ("not_finite_rows", "Copied rows with an output, of either, not finite.", lambda r: r.compared.not_finite),
    ("engine_seconds", "Seconds of the shadow's engine for the compared rows.", lambda r: r.compared.seconds),
)  # fmt: skip
GAUGES: tuple[tuple[str, str, ValueOf], ...] = (
    ("mean_difference", "Mean absolute difference of the outputs from the shadow's.", lambda r: r.mean_difference),
    ("largest_difference", "Largest such difference.", lambda r: r.compared.largest if r.compared.rows else None),
)


def shadow_families(prefix: str, reports: Iterable[tuple[tuple[str, str], ShadowReport]]) -> Iterable[Metric]:
    """The families, from each version's labels and its shadow's report."""
    found = [([*labels, report.version], report) for labels, report in reports]
    labels = ["model", "version", "shadow"]
    kinds: tuple[Any, ...] = (CounterMetricFamily, GaugeMetricFamily)
    for kind, described in zip(kinds, (COUNTERS, GAUGES), strict=True):
        for name, text, value_of in described:
            family = kind(f"{prefix}_shadow_{name}", text, labels=labels)
            for version, report in found:
                if (value := value_of(report)) is not None:
                    family.add_metric(version, value)
            yield family

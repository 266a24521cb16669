"""A version's shift for Prometheus. A shift that is unknown has no sample: 0 would say that nothing has shifted."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from batchyard.serving.shift_report import ShiftReport

MOST_LAYERS = 128
"""Layers of one version with a series of their own, the first ones; GetShift tells of all."""


def shift_families(prefix: str, reports: Iterable[tuple[tuple[str, str], ShiftReport]]) -> Iterable[Metric]:
    """The families, from each version's labels and report."""
    labels = ["model", "version"]
    whole = GaugeMetricFamily(f"{prefix}_shift", "Shift of live data: mean of the layers' shifts.", labels=labels)
    layers = GaugeMetricFamily(
        f"{prefix}_layer_shift",
        "Squared distance of a folded layer's output from beta and abs(gamma), in training variances.",
        labels=[*labels, "layer"],
    )
    rows = GaugeMetricFamily(f"{prefix}_shift_rows", "Sampled rows that the shift is computed from.", labels=labels)
    dropped = CounterMetricFamily(
        f"{prefix}_shift_dropped_rows", "Sampled rows not measured because too many waited.", labels=labels
    )
    for version, report in reports:
        rows.add_metric(version, report.rows)
        dropped.add_metric(version, report.dropped_rows)
        if report.shift is not None:
            whole.add_metric(version, report.shift)
        for layer in report.layers[:MOST_LAYERS]:
            if layer.shift is not None:
                layers.add_metric([*version, layer.layer], layer.shift)
    return whole, layers, rows, dropped

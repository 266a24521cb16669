"""What a version counts under the names that dashboards made for Triton scrape. Nothing new is counted for it.

Written as text and not as prometheus_client's families: those would put `_total` behind every counter's name. Source:
Triton's documentation of its metrics. Reading a request and packing the reply are not timed apart here, so the times
of compute_input and compute_output are 0. Microseconds, as in Triton.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchyard.serving.metrics import VersionMetrics

REASONS = {
    "RESOURCE_EXHAUSTED": "REJECTED",
    "DEADLINE_EXCEEDED": "REJECTED",
    "CANCELLED": "CANCELED",
    "INTERNAL": "BACKEND",
    "UNKNOWN": "BACKEND",
}
"""gRPC code -> Triton's reason; any other is OTHER."""

COUNTERS = (
    ("nv_inference_request_success", "Requests that were answered."),
    ("nv_inference_count", "Rows of the requests that were answered."),
    ("nv_inference_exec_count", "Batches."),
    ("nv_inference_request_duration_us", "Of the answered requests."),
    ("nv_inference_queue_duration_us", "In the queue."),
    ("nv_inference_compute_input_duration_us", "Not timed apart."),
    ("nv_inference_compute_infer_duration_us", "In the engine."),
    ("nv_inference_compute_output_duration_us", "Not timed apart."),
)
FAILURES = "nv_inference_request_failure", "Requests that were not answered."
PENDING = "nv_inference_pending_request_count", "Requests that wait for the engine; a large one as its parts."


def triton_text(versions: Iterable[VersionMetrics]) -> str:
    """The series of these versions, in Prometheus' text format; empty without any."""
    lines = [line for family in _families(list(versions)) for line in family]
    return "".join(f"{line}\n" for line in lines)


def _families(versions: list[VersionMetrics]) -> Iterator[list[str]]:
    if not versions:
        return
    counted = [_counted(version) for version in versions]
    for place, (name, text) in enumerate(COUNTERS):
        series = (_line(name, version, values[place]) for version, values in zip(versions, counted, strict=True))
        yield [*_head(name, text, "counter"), *series]
    failures = [
        _line(FAILURES[0], version, count, reason=reason)
        for version in versions
        for reason, count in _by_reason(version.failures).items()
    ]
    yield [*_head(*FAILURES, "counter"), *failures]
    pending = [_line(PENDING[0], version, version.queued_requests()) for version in versions]
    yield [*_head(*PENDING, "gauge"), *pending]


def _counted(version: VersionMetrics) -> tuple[float, ...]:
    """In the order of COUNTERS."""
    return (
        version.requests - sum(version.failures.values()),
        version.rows,
        sum(batches.count for batches in version.batches.values()),
        version.request_seconds.total * 1e6,
        version.queue_seconds.total * 1e6,
        0,
        version.compute_seconds * 1e6,
        0,
    )


def _by_reason(failures: Mapping[str, int]) -> dict[str, int]:
    """All reasons, from the beginning: a series that appears with its first failure has no rate."""
    counts = dict.fromkeys((*REASONS.values(), "OTHER"), 0)
    for code, count in failures.items():
        counts[REASONS.get(code, "OTHER")] += count
    return counts


def _head(name: str, text: str, kind: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _line(name: str, version: VersionMetrics, value: float, **more: str) -> str:
    model, number = version.labels  # names of artifacts: no character in them needs quoting
    labels = {"model": model, "version": number, **more}
    written = ",".join(f'{label}="{of}"' for label, of in labels.items())
    return f"{name}{{{written}}} {value!r}"

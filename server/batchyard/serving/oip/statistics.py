"""ModelStatistics: what each version has counted since it was loaded, the same numbers as /metrics.

Reading a request, copying its rows into the batch and packing the reply are part of `success` and not timed apart:
compute_input and compute_output stay empty, here and in the batches.
"""

from __future__ import annotations

from typing import Any

from batchyard.oip import messages
from batchyard.serving.metrics import VersionMetrics
from batchyard.serving.model import ServedVersion
from batchyard.serving.repository import Repository


class Statistics:
    """The extension's one call."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def ModelStatistics(
        self, request: messages.ModelStatisticsRequest, context: Any
    ) -> messages.ModelStatisticsResponse:
        """One version, all versions of a model (name alone), or everything. Raises NotFoundError, UnavailableError."""
        return messages.ModelStatisticsResponse(model_stats=map(_counted, self._asked_for(request)))

    def _asked_for(self, request: messages.ModelStatisticsRequest) -> list[ServedVersion]:
        if request.version or "@" in request.name:
            return [self._repository.resolve(request.name, request.version)]
        served = self._repository.served_versions(request.name)
        # Of a model without a version: resolving tells why.
        return served if served or not request.name else [self._repository.resolve(request.name, "")]


def _counted(served: ServedVersion) -> messages.ModelStatistics:
    metrics = served.metrics
    batches = sorted(metrics.batches.items())
    return messages.ModelStatistics(
        name=served.name,
        version=served.version,
        last_inference=round(metrics.last_batch * 1e3),
        inference_count=metrics.rows,
        execution_count=sum(batch.count for _, batch in batches),
        inference_stats=_inferences(metrics),
        batch_stats=[
            messages.InferBatchStatistics(batch_size=rows, compute_infer=_duration(batch.count, batch.seconds))
            for rows, batch in batches
        ],
    )


def _inferences(metrics: VersionMetrics) -> messages.InferStatistics:
    failures = sum(metrics.failures.values())
    ran = sum(metrics.queue_seconds.counts)
    return messages.InferStatistics(
        success=_duration(metrics.requests - failures, metrics.request_seconds.total),
        fail=_duration(failures, metrics.failed_seconds),
        queue=_duration(ran, metrics.queue_seconds.total),
        compute_infer=_duration(ran, metrics.compute_seconds),
    )


def _duration(count: int, seconds: float) -> messages.StatisticDuration:
    return messages.StatisticDuration(count=count, ns=round(seconds * 1e9))

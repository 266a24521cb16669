"""OpenTelemetry: a span for each sampled request, with one for its time in the queue and one for the engine's batch.

The caller's `traceparent` (W3C Trace Context, in the call's metadata) is the parent, and decides whether the request is
sampled; of requests without one a share is. Spans leave over OTLP/gRPC on a thread of their own, in batches, out of a
bounded queue: a collector that is slow or away costs spans, not answers. The libraries are the extra `tracing`, and are
imported only where an endpoint is given.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from batchyard.serving.settings import SettingsError

LIBRARY = "opentelemetry.exporter.otlp.proto.grpc"
SERVICE = "batchyard-inference"
EXPORT_SECONDS = 2.0
"""For one batch of spans, retries included: the end of the process waits no longer for a collector that is away."""
CONTEXT_KEYS = ("traceparent", "tracestate")

Metadata = Iterable[tuple[str, str | bytes]]


class Subject(NamedTuple):
    """What a request is about."""

    model: str
    version: str
    request_id: str


class Spans:
    """One sampled request's. Times that are passed in are those of time.monotonic, as the event loop's are."""

    def __init__(self, telemetry: Telemetry, span: Any) -> None:
        self._telemetry = telemetry
        self._span = span
        self._queued_at = 0.0

    def mark(self, name: str) -> None:
        """QUEUE_START is all that spans are made of, computed() and end() aside."""
        if name == "QUEUE_START":
            self._queued_at = time.monotonic()

    def computed(self, began: float, ended: float) -> None:
        """The batch that the request was in."""
        self._telemetry.add(self._span, "queue", self._queued_at, began)
        self._telemetry.add(self._span, "engine", began, ended)

    def end(self, error: str = "") -> None:
        """The request is answered, or has failed with this gRPC code."""
        self._telemetry.end(self._span, error)


class Telemetry:
    """Sends spans to one collector."""

    def __init__(self, endpoint: str, share: float) -> None:
        """`endpoint`: http://HOST:PORT, or https:// for TLS. `share`: of the requests that bring no traceparent.

        Raises SettingsError when the libraries are missing.
        """
        if not _is_installed():
            raise SettingsError("--otlp-endpoint: OpenTelemetry is not installed; pip install 'batchyard[tracing]'")
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api = trace
        self._propagator = TraceContextTextMapPropagator()
        exporter = OTLPSpanExporter(
            endpoint=endpoint, insecure=not endpoint.startswith("https://"), timeout=EXPORT_SECONDS
        )
        self._processor = BatchSpanProcessor(exporter)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=Resource.create({"service.name": SERVICE}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("batchyard.serving")
        self._epoch = time.time_ns() - time.monotonic_ns()

    def begin(self, subject: Subject, metadata: Metadata) -> Spans | None:
        """None: this request is not sampled."""
        parent = self._propagator.extract(_carrier(metadata))
        span = self._tracer.start_span("ModelInfer", context=parent, kind=self._api.SpanKind.SERVER)
        if not span.is_recording():
            return None
        span.set_attributes(
            {
                "rpc.system": "grpc",
                "rpc.service": "inference.GRPCInferenceService",
                "rpc.method": "ModelInfer",
                "batchyard.model": subject.model,
                "batchyard.version": subject.version,
                "batchyard.request_id": subject.request_id,
            }
        )
        return Spans(self, span)

    def add(self, parent: Any, name: str, began: float, ended: float) -> None:
        """A span within another one, from and to times of time.monotonic."""
        context = self._api.set_span_in_context(parent)
        span = self._tracer.start_span(name, context=context, start_time=self._nanoseconds(began))
        span.end(self._nanoseconds(max(began, ended)))

    def end(self, span: Any, error: str) -> None:
        """Ends a request's span, with the gRPC code that it failed with or none."""
        if error:
            span.set_attribute("error.type", error)
            span.set_status(self._api.StatusCode.ERROR, error)
        span.end()

    def close(self) -> None:
        """Sends what there is, for a few seconds at most."""
        self._provider.shutdown()

    def _nanoseconds(self, moment: float) -> int:
        return self._epoch + int(moment * 1e9)


def _carrier(metadata: Metadata) -> Mapping[str, str]:
    return {key: str(value) for key, value in metadata if key in CONTEXT_KEYS}


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec(LIBRARY) is not None
    except ModuleNotFoundError:  # a package on the way to it
        return False

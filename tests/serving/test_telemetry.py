"""Spans of requests reach an OpenTelemetry collector, under the caller's own trace."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from batchyard.serving.settings import Control, Settings, SettingsError
from batchyard.serving.telemetry import Subject, Telemetry
from bench.small_artifact import SmallNetwork
from tests.serving.harness import Serving, refusal, request_for

NETWORK = SmallNetwork(seed=1)
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SUBJECT = Subject("mnist", "1", "the id")


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: dict[str, list[Any]] = {}
        self.endpoint = ""

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.setdefault(span.name, []).append(span)
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)])
    kept = Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(kept, server)  # type: ignore[no-untyped-call]
    kept.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield kept
    server.stop(None).wait()


@pytest.fixture
async def traced(serving: Serving, collector: Collector) -> Serving:
    """Serves a model; of the requests without a traceparent none becomes a span."""
    await serving.start(otlp_endpoint=collector.endpoint, otlp_sample_rate=0.0)
    serving.wish(serving.version(1, NETWORK))
    await serving.until_version(1)
    return serving


async def ask(serving: Serving, flags: str, model: str = "mnist") -> Any:
    metadata = (("traceparent", f"00-{TRACE}-{PARENT}-{flags}"),)
    return await serving.stub.ModelInfer(request_for(NETWORK.pixels(2), model), metadata=metadata)


def attributes(span: Any) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in span.attributes}


async def test_a_request_its_queue_and_its_engine_are_spans_of_the_callers_trace(
    traced: Serving, collector: Collector
) -> None:
    await traced.infer(NETWORK.pixels(1))
    await ask(traced, "00")
    await ask(traced, "01")
    await traced.plane.stop()
    assert {name: len(spans) for name, spans in collector.spans.items()} == {"ModelInfer": 1, "queue": 1, "engine": 1}
    (request,), (queue,), (engine,) = (collector.spans[name] for name in ("ModelInfer", "queue", "engine"))
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert queue.parent_span_id == engine.parent_span_id == request.span_id
    assert attributes(request)["batchyard.model"] == "mnist"
    assert attributes(request)["batchyard.request_id"] == "the id"
    times = [request.start_time_unix_nano, queue.start_time_unix_nano, queue.end_time_unix_nano,
             engine.end_time_unix_nano, request.end_time_unix_nano]  # fmt: skip
    assert times == sorted(times)
    assert engine.start_time_unix_nano == queue.end_time_unix_nano


async def test_a_failed_request_is_a_span_with_its_code(traced: Serving, collector: Collector) -> None:
    request = request_for(NETWORK.pixels(2))
    request.inputs[0].name = "nothing"
    await refusal(traced.stub.ModelInfer(request, metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"),)))
    await traced.plane.stop()
    (span,) = collector.spans["ModelInfer"]
    assert attributes(span)["error.type"] == "INVALID_ARGUMENT"
    assert "engine" not in collector.spans


async def test_a_collector_that_is_away_costs_no_answer(serving: Serving) -> None:
    await serving.start(otlp_endpoint="http://127.0.0.1:1", otlp_sample_rate=1.0)
    serving.wish(serving.version(1, NETWORK))
    await serving.until_version(1)
    for _ in range(20):
        await serving.infer(NETWORK.pixels(1), timeout=10)


def test_a_share_of_the_requests_without_a_parent_is_sampled(collector: Collector) -> None:
    telemetry = Telemetry(collector.endpoint, 0.5)
    begun = [telemetry.begin(SUBJECT, ()) for _ in range(400)]
    for spans in begun:
        if spans is not None:
            spans.end()
    telemetry.close()
    assert 120 < len(collector.spans["ModelInfer"]) < 280
    assert len(collector.spans["ModelInfer"]) == sum(spans is not None for spans in begun)


def test_without_the_libraries_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchyard.serving.telemetry.LIBRARY", "a_library_nobody_has.at_all")
    with pytest.raises(SettingsError, match=r"pip install 'batchyard\[tracing\]'"):
        Telemetry("http://127.0.0.1:1", 1.0)


@pytest.mark.parametrize("wrong", [{"otlp_endpoint": "127.0.0.1:4317"}, {"otlp_sample_rate": 1.5}], ids=str)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], tmp_path: Any) -> None:
    with pytest.raises(SettingsError, match="--otlp-"):
        Settings(control=Control(address="127.0.0.1:1"), cache=tmp_path, **wrong)

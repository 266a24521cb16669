"""Health, reflection, deadlines and unknown methods: as any gRPC client expects them, on both transports."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from batchyard.oip import SERVICE_NAME
from batchyard.serving.settings import Limits
from bench.small_artifact import SmallNetwork
from tests.serving.harness import Serving, refusal, request_for, until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("service", ["", SERVICE_NAME])
async def test_health_follows_readiness_for_check_and_for_watchers(serving: Serving, service: str) -> None:
    await serving.control.start()
    await serving.control.stop()
    await serving.start()
    stub: Any = health_pb2_grpc.HealthStub(serving.channel)
    request = health_pb2.HealthCheckRequest(service=service)
    assert (await stub.Check(request)).status == NOT_SERVING
    watch = stub.Watch(request)
    assert (await watch.read()).status == NOT_SERVING
    await serving.control.start()
    assert (await watch.read()).status == SERVING
    assert (await stub.Check(request)).status == SERVING
    watch.cancel()


async def test_the_health_of_an_unknown_service_is_not_found(mnist: Serving) -> None:
    stub: Any = health_pb2_grpc.HealthStub(mnist.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="nonsense"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_and_describes_every_service(mnist: Serving) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(mnist.channel)
    ask = reflection_pb2.ServerReflectionRequest
    call = stub.ServerReflectionInfo(iter([ask(list_services=""), ask(file_containing_symbol=SERVICE_NAME)]))
    listed, described = [response async for response in call]
    names = {service.name for service in listed.list_services_response.service}
    standard = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert names == {SERVICE_NAME, "batchyard.v1.ShadowService", "batchyard.v1.ShiftService", *standard}
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(packed)
        for packed in described.file_descriptor_response.file_descriptor_proto
    ]
    assert "GRPCInferenceService" in {service.name for file in files for service in file.service}


async def test_an_unknown_method_is_unimplemented(mnist: Serving) -> None:
    call = mnist.channel.unary_unary(f"/{SERVICE_NAME}/Nonsense")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_an_unforeseen_error_is_told_by_an_incident_number_only(
    mnist: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(*_: object) -> None:
        raise RuntimeError("secret words")

    monkeypatch.setattr("batchyard.serving.oip.infer.read_rows", break_down)
    code, message, status = await refusal(mnist.infer(SmallNetwork().pixels(1)))
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in message + str(status)
    assert "secret words" in caplog.text
    assert mnist.plane.repository.resolve("mnist", "").metrics.failures == {"INTERNAL": 1}


async def test_a_deadline_ends_the_call_and_is_counted(serving: Serving) -> None:
    slow = SmallNetwork(seed=1, hidden=(1000, 1000))
    await serving.start(limits=Limits(max_batch=1))
    serving.wish(serving.version(1, slow))
    await serving.until_version(1)
    served = serving.plane.repository.resolve("mnist", "")
    ahead = serving.stub.ModelInfer(request_for(slow.pixels(3000)))
    await until(lambda: served.batcher.queued_rows > 2000, "a long queue")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await serving.infer(slow.pixels(1), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # The caller's own clock may run out first: then the server sees it leave.
    await until(lambda: served.metrics.failures in ({"DEADLINE_EXCEEDED": 1}, {"CANCELLED": 1}), "it is counted")
    ahead.cancel()

"""A real server whose handlers fail in every way: what the caller is told."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from batchyard.endpoint import errors
from batchyard.endpoint.security import Security, TokenInterceptor
from batchyard.endpoint.services import add_standard_services
from batchyard.endpoint.status import CODES, DETAILS_KEY, Guarded
from batchyard.oip.contract import FILES
from batchyard.v1 import models_pb2, models_pb2_grpc

TOKEN = "a-token-of-some-length"


class Failing(models_pb2_grpc.ModelServiceServicer):
    """Raises what it is told to."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def GetModel(self, request: models_pb2.GetModelRequest, context: Any) -> models_pb2.Model:
        raise self.error

    async def WatchServedModels(
        self, request: models_pb2.WatchServedModelsRequest, context: Any
    ) -> AsyncIterator[models_pb2.WatchServedModelsResponse]:
        yield models_pb2.WatchServedModelsResponse()
        raise self.error


class Served:
    """A server on a free port and a channel to it."""

    def __init__(self, error: Exception, security: Security | None = None) -> None:
        self.server = grpc.aio.server(interceptors=[TokenInterceptor(security)] if security else [])
        guarded: Any = Guarded(self.server)
        models_pb2_grpc.add_ModelServiceServicer_to_server(Failing(error), guarded)  # type: ignore[abstract]  # two of its calls do
        self.health = add_standard_services(guarded, [models_pb2.DESCRIPTOR, *FILES])
        self.port = self.server.add_insecure_port("127.0.0.1:0")

    async def __aenter__(self) -> "Served":
        await self.server.start()
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")
        self.models = models_pb2_grpc.ModelServiceStub(self.channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close(None)
        await self.server.stop(None)


async def failure(call: Any) -> tuple[grpc.StatusCode, status_pb2.Status]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    trailing: Any = caught.value.trailing_metadata()
    return caught.value.code(), status_pb2.Status.FromString(dict(trailing)[DETAILS_KEY])


def detail(status: status_pb2.Status, kind: Any) -> Any:
    found = kind()
    assert any(part.Unpack(found) for part in status.details), status
    return found


@pytest.mark.parametrize("kind", [k for k in CODES if k not in (errors.InvalidInputError, errors.OverloadedError)])
async def test_each_domain_error_has_its_code_and_reason(kind: type[errors.DomainError]) -> None:
    async with Served(kind("what happened", reason="WHY", metadata={"model": "m"})) as served:
        code, status = await failure(served.models.GetModel(models_pb2.GetModelRequest()))
    assert (code, status.message) == (CODES[kind], "what happened")
    info = detail(status, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain, dict(info.metadata)) == ("WHY", "batchyard", {"model": "m"})


async def test_bad_input_lists_every_field() -> None:
    violations = [errors.FieldViolation("a.b", "wrong"), errors.FieldViolation("c", "missing")]
    async with Served(errors.InvalidInputError(violations)) as served:
        code, status = await failure(served.models.GetModel(models_pb2.GetModelRequest()))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    listed = detail(status, error_details_pb2.BadRequest).field_violations
    assert [(v.field, v.description) for v in listed] == [("a.b", "wrong"), ("c", "missing")]


async def test_overload_says_when_to_try_again() -> None:
    async with Served(errors.OverloadedError("full", reason="QUEUE_FULL", retry_after=0.25)) as served:
        code, status = await failure(served.models.GetModel(models_pb2.GetModelRequest()))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(status, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 250


async def test_an_unforeseen_error_leaks_nothing_but_an_incident_id(caplog: pytest.LogCaptureFixture) -> None:
    async with Served(RuntimeError("secret path")) as served:
        code, status = await failure(served.models.GetModel(models_pb2.GetModelRequest()))
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in str(status)
    incident = detail(status, error_details_pb2.ErrorInfo).metadata["incident"]
    assert any(incident in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("method", ["GetModel", "WatchServedModels"])
async def test_bytes_that_are_no_message_are_the_callers_fault(method: str) -> None:
    async with Served(RuntimeError("not reached")) as served:
        channel: Any = served.channel
        call = channel.unary_stream(f"/batchyard.v1.ModelService/{method}")
        code, status = await failure(call(b"\xff\xff").read())
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(status, error_details_pb2.ErrorInfo).reason == "MALFORMED_MESSAGE"


async def test_a_stream_that_fails_keeps_what_it_sent_and_tells_why() -> None:
    async with Served(errors.NotFoundError("gone", reason="GONE")) as served:
        call = served.models.WatchServedModels(models_pb2.WatchServedModelsRequest())
        assert await call.read() == models_pb2.WatchServedModelsResponse()
        code, status = await failure(call.read())
    assert (code, status.message) == (grpc.StatusCode.NOT_FOUND, "gone")


async def test_calls_need_the_token_and_health_does_not(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    async with Served(errors.NotFoundError("reached", reason="REACHED"), Security(token_file=path)) as served:
        request = models_pb2.GetModelRequest()
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            code, _ = await failure(served.models.GetModel(request, metadata=metadata))
            assert code is grpc.StatusCode.UNAUTHENTICATED
            code, _ = await failure(served.models.WatchServedModels(models_pb2.WatchServedModelsRequest()).read())
            assert code is grpc.StatusCode.UNAUTHENTICATED
        code, _ = await failure(served.models.GetModel(request, metadata=(("authorization", f"Bearer {TOKEN}"),)))
        assert code is grpc.StatusCode.NOT_FOUND
        await served.health.set(True)
        stub = health_pb2_grpc.HealthStub(served.channel)
        reply = await stub.Check(health_pb2.HealthCheckRequest())
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_health_watch_hears_of_a_change() -> None:
    async with Served(RuntimeError()) as served:
        stub = health_pb2_grpc.HealthStub(served.channel)
        await served.health.set(False)
        call = stub.Watch(health_pb2.HealthCheckRequest(service="batchyard.v1.ModelService"))
        assert (await call.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await served.health.set(True)
        assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
        call.cancel()


async def test_reflection_describes_services_of_both_pools() -> None:
    async with Served(RuntimeError()) as served:
        stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)
        symbols = ["batchyard.v1.ModelService", "inference.GRPCInferenceService", "grpc.health.v1.Health"]
        requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
        requests += [reflection_pb2.ServerReflectionRequest(file_containing_symbol=s) for s in symbols]
        replies = [reply async for reply in stub.ServerReflectionInfo(iter(requests))]
    assert set(symbols) <= {service.name for service in replies[0].list_services_response.service}
    assert all(reply.file_descriptor_response.file_descriptor_proto for reply in replies[1:])

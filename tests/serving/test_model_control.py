"""RepositoryIndex, load and unload: what clients see of the repository and, where they may, do to it."""

from __future__ import annotations

import asyncio
import shutil

import grpc
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

from batchyard.oip import messages
from batchyard.serving.settings import Limits
from bench.small_artifact import SmallNetwork
from tests.serving.harness import Serving, assert_is_answer, reason_of, refusal, request_for, until

NETWORK = SmallNetwork(seed=1)
PIXELS = NETWORK.pixels(2)


async def index(serving: Serving, ready: bool = False) -> list[tuple[str, str, str, str]]:
    response = await serving.stub.RepositoryIndex(messages.RepositoryIndexRequest(ready=ready))
    return [(model.name, model.version, model.state, model.reason) for model in response.models]


@pytest.fixture
async def explicit(serving: Serving) -> Serving:
    """Serves version 1 of mnist and lets clients load and unload."""
    await serving.start(model_control="explicit")
    serving.wish(serving.version(1), aliases={"production": 1})
    await serving.until_version(1)
    return serving


async def test_the_index_has_every_version_with_its_state_and_the_reason(serving: Serving) -> None:
    await serving.start()
    good, bad = serving.version(1), serving.version(2, passed=False)
    serving.wish(good, bad, aliases={"production": 1})
    await until(lambda: serving.plane.repository.failures, "version 2 is refused")
    first, second = await index(serving)
    assert first == ("mnist", "1", "READY", "")
    assert second[:3] == ("mnist", "2", "UNAVAILABLE")
    assert "certificate" in second[3]
    assert await index(serving, ready=True) == [first]
    async with triton_aio.InferenceServerClient(serving.plane.grpc_address) as client:
        (ready, _) = (await client.get_model_repository_index(as_json=True))["models"]
    assert ready == {"name": "mnist", "version": "1", "state": "READY"}


async def test_a_version_that_drains_is_unloading(serving: Serving) -> None:
    slow = SmallNetwork(seed=1, hidden=(2500, 2500))  # drains for longer than version 2 takes to load
    await serving.start(limits=Limits(max_batch=1))
    serving.wish(serving.version(1, slow))
    await serving.until_version(1)
    served = serving.plane.repository.resolve("mnist", "")
    ahead = serving.stub.ModelInfer(request_for(slow.pixels(15000)))
    await until(lambda: served.batcher.queued_rows > 14000, "a long queue")
    serving.wish(serving.version(2))
    await serving.until_version(2)
    assert [line[1:3] for line in await index(serving)] == [("1", "UNLOADING"), ("2", "READY")]
    ahead.cancel()
    await until(lambda: not serving.plane.repository.closing, "version 1 is gone")
    assert [line[1:3] for line in await index(serving)] == [("2", "READY")]


async def test_unless_it_is_allowed_clients_neither_load_nor_unload(mnist: Serving) -> None:
    for call, request in (
        (mnist.stub.RepositoryModelLoad, messages.RepositoryModelLoadRequest(model_name="mnist")),
        (mnist.stub.RepositoryModelUnload, messages.RepositoryModelUnloadRequest(model_name="mnist")),
    ):
        code, message, status = await refusal(call(request))
        assert (code, reason_of(status)) == (grpc.StatusCode.PERMISSION_DENIED, "MODEL_CONTROL_FORBIDDEN")
        assert "--model-control explicit" in message
    assert await mnist.infer(PIXELS) is not None


async def test_an_unloaded_model_stays_away_until_it_is_loaded(explicit: Serving) -> None:
    async with triton_aio.InferenceServerClient(explicit.plane.grpc_address) as client:
        await client.unload_model("mnist")
        assert not await client.is_model_ready("mnist")
        assert await client.is_server_ready()
        ((_, version, state, reason),) = await index(explicit)
        assert (version, state, "unloaded by a client" in reason) == ("1", "UNAVAILABLE", True)
        code, _, status = await refusal(explicit.infer(PIXELS))
        assert (code, reason_of(status)) == (grpc.StatusCode.UNAVAILABLE, "UNLOADED")
        # Nor does a new wish of the control plane bring it back.
        explicit.wish(explicit.version(2))
        async with asyncio.timeout(30):
            while [line[1] for line in await index(explicit)] != ["2"]:
                pass
        assert not await client.is_model_ready("mnist")
        await client.load_model("mnist")
        assert await client.is_model_ready("mnist")
    assert_is_answer(await explicit.infer(PIXELS), SmallNetwork(seed=2), PIXELS)


async def test_a_load_tells_why_it_failed_and_mends_when_it_can(explicit: Serving) -> None:
    bad = explicit.version(2)
    kept = explicit.folder / "kept"
    shutil.move(bad.artifact_uri, kept)
    explicit.wish(bad)
    await until(lambda: explicit.plane.repository.failures, "version 2 cannot be loaded")
    async with triton_aio.InferenceServerClient(explicit.plane.grpc_address) as client:
        with pytest.raises(triton.InferenceServerException, match="could not be loaded") as caught:
            await client.load_model("mnist")
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
        shutil.move(kept, bad.artifact_uri)
        await client.load_model("mnist")
    assert explicit.default_version() == "2"


async def test_what_the_control_plane_does_not_want_cannot_be_loaded(explicit: Serving) -> None:
    async with triton_aio.InferenceServerClient(explicit.plane.grpc_address) as client:
        for change in (client.load_model, client.unload_model):
            with pytest.raises(triton.InferenceServerException, match="it wants: mnist") as caught:
                await change("other")
            assert caught.value.status() == "StatusCode.NOT_FOUND"
        with pytest.raises(triton.InferenceServerException, match="'config'") as caught:
            await client.load_model("mnist", config="{}")
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    request = messages.RepositoryIndexRequest(repository_name="elsewhere")
    code, _, _ = await refusal(explicit.stub.RepositoryIndex(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT

"""Following the control plane: losing it changes nothing, and a restart needs only the disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import grpc
import pytest

from batchyard.oip import messages
from batchyard.serving.settings import Control
from batchyard.serving.state import StateFile
from bench.small_artifact import SmallNetwork
from tests.serving.harness import Serving, assert_is_answer, reason_of, refusal, until

PIXELS = SmallNetwork().pixels(2)


async def test_before_the_control_plane_has_spoken_the_server_is_live_but_not_ready(serving: Serving) -> None:
    await serving.control.start()
    await serving.control.stop()
    await serving.start()
    assert (await serving.stub.ServerLive(messages.ServerLiveRequest())).live
    assert not (await serving.stub.ServerReady(messages.ServerReadyRequest())).ready
    code, _, status = await refusal(serving.infer(PIXELS))
    assert (code, reason_of(status)) == (grpc.StatusCode.UNAVAILABLE, "STARTING")
    await serving.control.start()
    await until(lambda: serving.plane.repository.ready, "an empty wish is fulfilled")


async def test_serving_goes_on_without_the_control_plane_and_follows_it_when_it_is_back(mnist: Serving) -> None:
    await mnist.control.stop()
    await until(lambda: not mnist.plane.metrics.control_connected, "the loss is noticed")
    assert_is_answer(await mnist.infer(PIXELS), SmallNetwork(seed=1), PIXELS)
    await mnist.control.start()
    mnist.wish(mnist.version(2), aliases={"production": 2})
    await mnist.until_version(2)


async def test_a_restart_without_control_plane_or_storage_serves_from_the_disk(mnist: Serving) -> None:
    state = StateFile(mnist.folder / "cache")
    await until(lambda: (found := state.read()) and found.serving, "what is served is stored")
    await mnist.stop()
    await mnist.control.stop()
    shutil.rmtree(mnist.folder / "artifact-1")
    await mnist.start()
    await mnist.until_version(1)
    assert_is_answer(await mnist.infer(PIXELS), SmallNetwork(seed=1), PIXELS)
    await mnist.control.start()


async def test_a_restart_serves_the_old_version_again_when_the_wanted_one_is_refused(mnist: Serving) -> None:
    mnist.wish(mnist.version(2, passed=False), aliases={"production": 2})
    state = StateFile(mnist.folder / "cache")
    await until(lambda: (found := state.read()) and found.wanted[0].latest == 2, "the wish is stored")
    await mnist.stop()
    await mnist.start()
    await mnist.until_version(1)
    await until(lambda: mnist.plane.repository.failures, "the wanted version is still refused")
    assert_is_answer(await mnist.infer(PIXELS, "mnist@production"), SmallNetwork(seed=1), PIXELS)


async def test_a_cached_artifact_that_was_changed_is_not_served_but_fetched_again(mnist: Serving) -> None:
    (graph,) = (mnist.folder / "cache").glob("artifacts/mnist/*/model.onnx")
    await mnist.stop()
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    await mnist.start()
    await mnist.until_version(1)
    assert_is_answer(await mnist.infer(PIXELS), SmallNetwork(seed=1), PIXELS)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 99}', '{"schema_version": 1, "wanted": 3}'])
async def test_a_damaged_state_file_is_ignored(serving: Serving, text: str) -> None:
    (serving.folder / "cache").mkdir()
    (serving.folder / "cache" / "state.json").write_text(text)
    await serving.start()
    serving.wish(serving.version(1))
    await serving.until_version(1)


async def test_artifacts_of_versions_that_are_gone_leave_the_disk(mnist: Serving) -> None:
    mnist.wish(mnist.version(2), aliases={"production": 2})
    await mnist.until_version(2)
    cache = mnist.folder / "cache" / "artifacts" / "mnist"
    await until(lambda: [path.name[:2] for path in cache.iterdir()] == ["2-"], "only version 2 is kept")


async def test_the_control_planes_token_is_sent(serving: Serving, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.touch(mode=0o600)
    token_file.write_text("a-token-of-some-length\n")
    await serving.control.start()
    await serving.start(control=Control(address=f"127.0.0.1:{serving.control.port}", token_file=token_file))
    await until(lambda: serving.control.metadata, "the plane follows")
    assert serving.control.metadata[0]["authorization"] == "Bearer a-token-of-some-length"


async def test_names_that_would_leave_the_cache_folder_are_not_followed(serving: Serving) -> None:
    await serving.start()
    version = serving.version(1)
    serving.wish(version)
    serving.control.wish.models[0].model.name = "models/../../escape"
    serving.control.tell(*serving.control.wish.models)
    await until(lambda: len(serving.control.metadata) > 1, "the stream was given up and opened again")
    assert not list(serving.folder.parent.glob("escape*"))
    serving.wish(version)
    await serving.until_version(1)

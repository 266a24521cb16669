"""Versions: swapped under load without a failed request, refused when anything about them is wrong."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from batchyard.artifact.manifest import MANIFEST, ONNX_MODEL
from batchyard.oip import messages
from batchyard.v1 import models_pb2
from bench.small_artifact import SmallNetwork
from tests.serving.harness import Serving, assert_is_answer, logits_of, reason_of, refusal, request_for, until

PIXELS = SmallNetwork().pixels(3)


async def test_swapping_versions_under_load_fails_no_request(serving: Serving) -> None:
    await serving.start()
    versions = [serving.version(number) for number in (1, 2, 3)]
    serving.wish(versions[0], aliases={"production": 1})
    await serving.until_version(1)
    done = asyncio.Event()
    answered = {str(number): 0 for number in (1, 2, 3)}

    async def call_without_end(seed: int) -> None:
        pixels = SmallNetwork().pixels(1 + seed % 5, seed)
        while not done.is_set():
            response = await serving.stub.ModelInfer(request_for(pixels, "mnist@production"))
            assert_is_answer(logits_of(response), SmallNetwork(seed=int(response.model_version)), pixels)
            answered[response.model_version] += 1

    callers = [asyncio.create_task(call_without_end(seed)) for seed in range(16)]
    for number in (2, 3):
        await until(lambda last=number - 1: answered[str(last)] > 50, "the old version is under load")  # type: ignore[misc]
        serving.wish(versions[number - 1], aliases={"production": number})
        await serving.until_version(number)
    await until(lambda: answered["3"] > 50, "the new version is under load")
    done.set()
    await asyncio.gather(*callers)
    await until(lambda: serving.plane.repository.versions_of("mnist") == ["3"], "the old versions are gone")


async def test_an_alias_moves_between_versions_that_both_stay(serving: Serving) -> None:
    await serving.start()
    one, two = serving.version(1), serving.version(2)
    serving.wish(one, two, aliases={"production": 1, "staging": 2})
    await serving.until_version(1)
    await serving.until_version(2, "mnist@staging")
    assert_is_answer(await serving.infer(PIXELS, version="2"), SmallNetwork(seed=2), PIXELS)
    serving.wish(one, two, aliases={"production": 2, "old": 1})
    await serving.until_version(2)
    assert_is_answer(await serving.infer(PIXELS), SmallNetwork(seed=2), PIXELS)
    assert_is_answer(await serving.infer(PIXELS, "mnist@old"), SmallNetwork(seed=1), PIXELS)
    code, _, _ = await refusal(serving.infer(PIXELS, "mnist@staging"))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_without_the_alias_production_the_latest_answers(serving: Serving) -> None:
    await serving.start()
    serving.wish(serving.version(1), serving.version(2))
    await serving.until_version(2)
    assert_is_answer(await serving.infer(PIXELS), SmallNetwork(seed=2), PIXELS)


async def test_a_model_that_is_wanted_no_more_is_not_found(mnist: Serving) -> None:
    mnist.control.tell()
    await until(lambda: mnist.default_version() is None, "mnist is gone")
    code, message, _ = await refusal(mnist.infer(PIXELS))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "served: none" in message


def flip_one_byte_of_the_graph(folder: Path) -> None:
    content = bytearray((folder / ONNX_MODEL).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / ONNX_MODEL).write_bytes(content)


def change_the_manifest(folder: Path) -> None:
    values = json.loads((folder / MANIFEST).read_text())
    values["certificate"]["bound"] = 1e9
    (folder / MANIFEST).write_text(json.dumps(values))


def lose_the_graph(folder: Path) -> None:
    (folder / ONNX_MODEL).unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip_one_byte_of_the_graph, f"{ONNX_MODEL} is damaged: its sha256 is"),
        (change_the_manifest, f"{MANIFEST} is damaged: its sha256 is"),
        (lose_the_graph, f"{ONNX_MODEL} cannot be read"),
    ],
)
async def test_a_damaged_artifact_is_refused_and_the_old_version_keeps_its_names(
    mnist: Serving, damage: Callable[[Path], None], words: str
) -> None:
    two = mnist.version(2)
    damage(Path(two.artifact_uri))
    await assert_refused(mnist, two, words)


async def test_a_failed_certificate_is_refused(mnist: Serving) -> None:
    await assert_refused(mnist, mnist.version(2, passed=False), "the fold certificate did not pass")


async def test_an_engine_that_leaves_the_certificates_bound_is_refused(mnist: Serving) -> None:
    await assert_refused(mnist, mnist.version(2, bound=1e-12), "onnxruntime is .* off the certificate's samples")


async def test_an_artifact_of_another_model_is_refused(mnist: Serving) -> None:
    await assert_refused(mnist, mnist.version(2, model="other"), "artifact of model 'other', not of 'mnist'")


async def test_a_manifest_that_promises_another_shape_is_refused(mnist: Serving) -> None:
    class Lying(SmallNetwork):
        def onnx_model(self) -> bytes:
            return SmallNetwork(seed=self.seed, row_shape=(1, 14, 56)).onnx_model()

    await assert_refused(mnist, mnist.version(2, Lying(seed=2)), "input 'pixels' is")


async def test_a_file_that_is_no_onnx_is_refused(mnist: Serving) -> None:
    class Rubbish(SmallNetwork):
        def onnx_model(self) -> bytes:
            return b"rubbish" * 100

    await assert_refused(mnist, mnist.version(2, Rubbish(seed=2)), "ONNX Runtime cannot load model.onnx")


async def assert_refused(serving: Serving, version: models_pb2.ModelVersion, words: str) -> None:
    """Version 2 is not served, saying why; version 1 keeps production and latest."""
    serving.wish(serving.control.wish.models[0].versions[0], version, aliases={"production": 2})
    await until(lambda: serving.plane.repository.failures, "the version is refused")
    code, message, status = await refusal(serving.infer(PIXELS, version="2"))
    assert (code, reason_of(status)) == (grpc.StatusCode.UNAVAILABLE, "LOAD_FAILED")
    assert re.search(words, message), message
    for name in ("mnist", "mnist@production"):
        assert_is_answer(await serving.infer(PIXELS, name), SmallNetwork(seed=1), PIXELS)
    assert not (await serving.stub.ModelReady(messages.ModelReadyRequest(name="mnist", version="2"))).ready


async def test_a_first_version_that_is_refused_leaves_the_model_unavailable_and_says_why(serving: Serving) -> None:
    await serving.start()
    serving.wish(serving.version(1, passed=False), aliases={"production": 1})
    await until(lambda: serving.plane.repository.failures, "the version is refused")
    code, message, _ = await refusal(serving.infer(PIXELS))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "certificate did not pass" in message
    assert not (await serving.stub.ServerReady(messages.ServerReadyRequest())).ready


async def test_a_production_version_that_is_refused_is_not_replaced_by_the_latest(serving: Serving) -> None:
    await serving.start()
    serving.wish(serving.version(1, passed=False), serving.version(2), aliases={"production": 1})
    await until(lambda: serving.plane.repository.versions_of("mnist") == ["2"], "version 2 is served")
    code, _, _ = await refusal(serving.infer(PIXELS))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert_is_answer(await serving.infer(PIXELS, version="2"), SmallNetwork(seed=2), PIXELS)


async def test_a_load_that_failed_is_tried_again(mnist: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchyard.serving.follower.FIRST_RETRY_SECONDS", 0.05)
    two = mnist.version(2)
    home, away = mnist.folder / "artifact-2", mnist.folder / "away"
    home.rename(away)
    mnist.wish(mnist.control.wish.models[0].versions[0], two, aliases={"production": 2})
    await until(lambda: mnist.plane.repository.failures, "the version cannot be loaded")
    away.rename(home)
    await mnist.until_version(2)
    assert not mnist.plane.repository.failures


async def test_a_colour_image_is_served_in_its_own_shape(serving: Serving) -> None:
    network = SmallNetwork(seed=1, row_shape=(3, 8, 8), hidden=(20,), classes=4)
    await serving.start()
    serving.wish(serving.version(1, network))
    await serving.until_version(1)
    pixels = network.pixels(7)
    for shape in ((7, 3, 8, 8), (7, 192)):
        assert_is_answer(await serving.infer(pixels.reshape(shape)), network, pixels)
    np.testing.assert_array_equal((await serving.infer(pixels)).shape, (7, 4))

"""A shadow gets copies of requests, its answers are compared, and no caller notices: on both transports."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from batchyard.oip import messages
from batchyard.serving.shadow import Shadow
from batchyard.v1 import models_pb2, serving_pb2, shadow_pb2, shadow_pb2_grpc
from bench.small_artifact import SmallNetwork
from tests.serving.harness import Serving, assert_is_answer, reason_of, refusal, until

SERVES, SHADOW = SmallNetwork(seed=1), SmallNetwork(seed=2)


def wish(serving: Serving, *versions: models_pb2.ModelVersion, share: float | None = 1.0, **aliases: int) -> None:
    """Wants these versions under these aliases, and copies of this share of the requests sent to the shadow."""
    settings = serving_pb2.ServingSettings() if share is None else serving_pb2.ServingSettings(shadow_share=share)
    latest = int(versions[-1].name.rpartition("/")[2])
    model = models_pb2.Model(name="models/mnist", latest_version=latest, aliases=aliases, serving_settings=settings)
    serving.control.tell(models_pb2.ServedModel(model=model, versions=versions))


def wish_again(serving: Serving, share: float | None = 1.0, **aliases: int) -> None:
    """The same versions under other aliases."""
    wish(serving, *serving.control.wish.models[0].versions, share=share, **aliases)


def shadow_of(serving: Serving) -> Shadow | None:
    return serving.plane.repository.resolve("mnist", "").shadow


async def told(serving: Serving, model: str = "mnist") -> shadow_pb2.ShadowComparison:
    stub: Any = shadow_pb2_grpc.ShadowServiceStub(serving.channel)
    found: shadow_pb2.ShadowComparison = await stub.GetShadow(shadow_pb2.GetShadowRequest(model=model))
    return found


async def until_compared(serving: Serving, rows: int) -> shadow_pb2.ShadowComparison:
    shadow = shadow_of(serving)
    assert shadow is not None
    await until(lambda: shadow.report().compared.rows == rows, f"{rows} rows are compared")
    return await told(serving)


@pytest.fixture
async def shadowed(serving: Serving) -> Serving:
    """Version 1 serves, version 2 gets a copy of every request."""
    await serving.start()
    wish(serving, serving.version(1, SERVES), serving.version(2, SHADOW), production=1, shadow=2)
    await serving.until_version(1)
    return serving


async def test_callers_get_the_served_answers_and_the_differences_are_those_of_the_two_networks(
    shadowed: Serving,
) -> None:
    pixels = SERVES.pixels(96)
    for at in range(0, 96, 12):
        assert_is_answer(await shadowed.infer(pixels[at : at + 12]), SERVES, pixels[at : at + 12])
    found = await until_compared(shadowed, 96)
    ours, theirs = SERVES.oracle(pixels), SHADOW.oracle(pixels)
    assert (found.model, found.version, found.shadow_version, found.share) == ("mnist", "1", "2", 1.0)
    assert (found.requests, found.rows) == (8, 96)
    assert found.agreeing_rows == (ours.argmax(1) == theirs.argmax(1)).sum()
    assert found.mean_difference == pytest.approx(np.abs(ours - theirs).mean(), rel=1e-3)
    assert found.largest_difference == pytest.approx(np.abs(ours - theirs).max(), rel=1e-3)
    assert (found.dropped_rows, found.failed_rows, found.not_finite_rows, found.failure) == (0, 0, 0, "")
    assert found.seconds_per_row > 0
    assert found.shadow_seconds_per_row > 0


async def test_copies_count_as_nobodys_requests(shadowed: Serving) -> None:
    await shadowed.infer(SERVES.pixels(8))
    await until_compared(shadowed, 8)
    one, two = shadowed.plane.repository.served_versions("mnist")
    assert (one.metrics.requests, two.metrics.requests) == (1, 0)


async def test_metrics_and_model_config_tell_of_it(shadowed: Serving) -> None:
    await shadowed.infer(SERVES.pixels(8))
    found = await until_compared(shadowed, 8)
    families = {f.name: f.samples for f in text_string_to_metric_families(shadowed.plane.metrics.render().decode())}
    (rows,) = families["batchyard_inference_shadow_rows"]
    assert (rows.labels, rows.value) == ({"model": "mnist", "version": "1", "shadow": "2"}, 8)
    assert families["batchyard_inference_shadow_agreeing_rows"][0].value == found.agreeing_rows
    assert families["batchyard_inference_shadow_mean_difference"][0].value == found.mean_difference
    assert families["batchyard_inference_shadow_largest_difference"][0].value == found.largest_difference
    config = (await shadowed.stub.ModelConfig(messages.ModelConfigRequest(name="mnist"))).config
    assert config.parameters["shadow"].string_value == "version 2 gets copies of 100.000% of the requests"


async def test_promotion_is_to_move_the_alias(shadowed: Serving) -> None:
    await shadowed.infer(SERVES.pixels(8))
    await until_compared(shadowed, 8)
    wish_again(shadowed, production=2, shadow=2)
    await shadowed.until_version(2)
    assert_is_answer(await shadowed.infer(SERVES.pixels(4)), SHADOW, SERVES.pixels(4))
    code, message, status = await refusal(told(shadowed))
    assert (code, reason_of(status)) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_SHADOW")
    assert "names the version that serves, 2" in message
    assert "batchyard_inference_shadow_rows_total{" not in shadowed.plane.metrics.render().decode()


async def test_the_share_changes_while_it_serves_and_0_ends_it(shadowed: Serving) -> None:
    await shadowed.infer(SERVES.pixels(8))
    await until_compared(shadowed, 8)
    wish_again(shadowed, share=None, production=1, shadow=2)
    before = shadow_of(shadowed)
    assert before is not None
    await until(lambda: before.share == 0.1, "the default share is taken")
    assert (await told(shadowed)).rows == 8
    wish_again(shadowed, share=0.0, production=1, shadow=2)
    await until(lambda: shadow_of(shadowed) is None, "no request is copied any more")
    code, message, _ = await refusal(told(shadowed))
    assert (code, "--shadow-share" in message) == (grpc.StatusCode.FAILED_PRECONDITION, True)


async def test_a_shadow_that_cannot_run_fails_no_caller(shadowed: Serving) -> None:
    (copy,) = (shadowed.folder / "cache" / "artifacts" / "mnist").glob("2-*/model.onnx")
    copy.chmod(0o644)
    copy.write_bytes(SmallNetwork(seed=9).onnx_model())  # not the network of the certificate
    pixels = SERVES.pixels(5)
    assert_is_answer(await shadowed.infer(pixels), SERVES, pixels)
    shadow = shadow_of(shadowed)
    assert shadow is not None
    await until(lambda: shadow.report().failed_rows == 5, "the failure is known")
    found = await told(shadowed)
    assert (found.rows, found.HasField("mean_difference")) == (0, False)
    assert "off the certificate's samples" in found.failure
    assert_is_answer(await shadowed.infer(pixels), SERVES, pixels)


async def test_versions_of_other_classes_are_not_compared(serving: Serving) -> None:
    await serving.start()
    other = serving.version(2, SmallNetwork(seed=2, classes=7))
    wish(serving, serving.version(1, SERVES), other, production=1, shadow=2)
    await serving.until_version(1)
    await serving.infer(SERVES.pixels(3))
    found = await told(serving)
    assert (found.rows, found.failed_rows) == (0, 0)
    assert "other classes (7) than the version that serves (10)" in found.failure


async def test_who_has_no_shadow_is_told_how_to_get_one(mnist: Serving) -> None:
    code, message, status = await refusal(told(mnist))
    assert (code, reason_of(status)) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_SHADOW")
    assert "batchyard alias mnist shadow VERSION" in message
    code, _, _ = await refusal(told(mnist, "other"))
    assert code == grpc.StatusCode.NOT_FOUND

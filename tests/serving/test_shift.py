"""GetShift and the gauges of a plane that serves, on both transports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from batchyard.serving.settings import SettingsError
from batchyard.serving.shift_report import LEAST_ROWS
from batchyard.v1 import models_pb2, shift_pb2, shift_pb2_grpc
from tests.serving.harness import Serving, reason_of, refusal, until
from tests.serving.probed import LAYERS, ProbedNetwork

NETWORK = ProbedNetwork(seed=1, hidden=(20, 12, 8))


def stub_of(serving: Serving) -> Any:
    return shift_pb2_grpc.ShiftServiceStub(serving.channel)


def version(serving: Serving, number: int = 1, probe: bytes | None = None) -> models_pb2.ModelVersion:
    uri = serving.folder / f"probed-{number}"
    sha256 = NETWORK.published(uri, probe)
    return models_pb2.ModelVersion(
        name=f"models/mnist/versions/{number}", artifact_uri=str(uri), manifest_sha256=sha256
    )


@pytest.fixture
async def probed(serving: Serving) -> Serving:
    """Serves version 1, with a probe, and measures every request."""
    await serving.start(shift_sample_rate=1.0)
    serving.wish(version(serving), aliases={"production": 1})
    await serving.until_version(1)
    return serving


async def shift_after(serving: Serving, pixels: Any, name: str = "mnist@production") -> shift_pb2.ModelShift:
    """The shift once these pixels, too, have been sent and measured."""
    before = (await stub_of(serving).GetShift(shift_pb2.GetShiftRequest(model="mnist"))).rows
    for at in range(0, len(pixels), 16):
        await serving.infer(pixels[at : at + 16])
    monitor = serving.plane.repository.resolve("mnist", "").shift
    assert monitor is not None
    await until(lambda: monitor.report().rows == before + len(pixels), "every row is measured")
    found: shift_pb2.ModelShift = await stub_of(serving).GetShift(shift_pb2.GetShiftRequest(model=name, channels=-1))
    return found


async def test_clean_pixels_have_no_shift_and_darker_ones_have(probed: Serving) -> None:
    unknown = await shift_after(probed, NETWORK.clean(LEAST_ROWS - 16))
    assert not unknown.HasField("shift")
    assert [layer.layer for layer in unknown.layers] == list(LAYERS)
    assert not any(layer.HasField("shift") or layer.channels for layer in unknown.layers)
    assert "batchyard_inference_shift{" not in probed.plane.metrics.render().decode()

    clean = await shift_after(probed, NETWORK.clean(480, seed=4))
    assert (clean.model, clean.version, clean.sample_rate) == ("mnist", "1", 1.0)
    assert clean.rows == LEAST_ROWS - 16 + 480
    assert clean.dropped_rows == 0
    assert clean.shift < 0.01
    assert dict(clean.left_out) == {"norm3": "its gamma is near 0"}

    dark = await shift_after(probed, NETWORK.clean(480, seed=5) // 2)
    assert dark.shift > 0.1
    for layer, units in zip(dark.layers, NETWORK.hidden, strict=False):
        assert layer.measured_channels == len(layer.channels) == units
        assert layer.shift == pytest.approx(np.mean([channel.shift for channel in layer.channels]))
        assert [c.shift for c in layer.channels] == sorted((c.shift for c in layer.channels), reverse=True)


async def test_the_gauges_say_what_get_shift_says_and_go_with_the_version(probed: Serving) -> None:
    shift = await shift_after(probed, NETWORK.clean(64) // 3)
    families = {f.name: f for f in text_string_to_metric_families(probed.plane.metrics.render().decode())}
    (whole,) = families["batchyard_inference_shift"].samples
    assert whole.labels == {"model": "mnist", "version": "1"}
    assert whole.value == pytest.approx(shift.shift)
    layers = families["batchyard_inference_layer_shift"].samples
    assert {s.labels["layer"]: s.value for s in layers} == {x.layer: pytest.approx(x.shift) for x in shift.layers}
    assert families["batchyard_inference_shift_rows"].samples[0].value == 64

    probed.wish(probed.version(2))
    await probed.until_version(2)
    await until(lambda: "batchyard_inference_shift_rows{" not in probed.plane.metrics.render().decode(), "series end")
    code, message, status = await refusal(stub_of(probed).GetShift(shift_pb2.GetShiftRequest(model="mnist")))
    assert (code, reason_of(status)) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_SHIFT_PROBE")
    assert "published without a probe graph" in message


async def test_the_newest_sampled_inputs_are_those_that_were_sent(probed: Serving) -> None:
    pixels = NETWORK.clean(24)
    await shift_after(probed, pixels)
    given = await stub_of(probed).GetSampledInputs(shift_pb2.GetSampledInputsRequest(model="mnist", rows=20))
    assert (given.model, given.version, given.datatype) == ("mnist", "1", "UINT8")
    assert tuple(given.shape) == (20, 1, 28, 28)
    assert np.array_equal(np.frombuffer(given.raw, np.uint8).reshape(tuple(given.shape)), pixels[4:])


async def test_no_inputs_are_kept_where_the_operator_wants_none(serving: Serving) -> None:
    await serving.start(shift_sample_rate=1.0, shift_keep_rows=0)
    serving.wish(version(serving))
    await serving.until_version(1)
    await shift_after(serving, NETWORK.clean(16), name="mnist")
    code, message, status = await refusal(
        stub_of(serving).GetSampledInputs(shift_pb2.GetSampledInputsRequest(model="mnist"))
    )
    assert (code, reason_of(status)) == (grpc.StatusCode.FAILED_PRECONDITION, "INPUTS_NOT_KEPT")
    assert "--shift-keep-rows" in message


async def test_a_probe_that_cannot_run_harms_no_inference(serving: Serving) -> None:
    await serving.start(shift_sample_rate=1.0)
    serving.wish(version(serving, probe=b"garbage"))
    await serving.until_version(1)
    for _ in range(3):
        await serving.infer(NETWORK.clean(2))
    monitor = serving.plane.repository.resolve("mnist", "").shift
    assert monitor is not None
    await until(lambda: bool(monitor.report().failure), "the failure is known")
    shift = await stub_of(serving).GetShift(shift_pb2.GetShiftRequest(model="mnist"))
    assert "cannot load probe.onnx" in shift.failure
    await serving.infer(NETWORK.clean(2))


async def test_what_cannot_be_told_is_refused_with_the_reason(serving: Serving) -> None:
    await serving.start(shift_sample_rate=0.0)
    serving.wish(version(serving))
    await serving.until_version(1)
    stub = stub_of(serving)
    code, message, status = await refusal(stub.GetShift(shift_pb2.GetShiftRequest(model="mnist")))
    assert (code, reason_of(status)) == (grpc.StatusCode.FAILED_PRECONDITION, "SHIFT_NOT_SAMPLED")
    assert "--shift-sample-rate" in message
    code, _, _ = await refusal(stub.GetShift(shift_pb2.GetShiftRequest(model="other")))
    assert code == grpc.StatusCode.NOT_FOUND
    code, message, _ = await refusal(stub.GetShift(shift_pb2.GetShiftRequest(model="mnist", channels=-2)))
    assert (code, "channels" in message) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    code, message, _ = await refusal(stub.GetSampledInputs(shift_pb2.GetSampledInputsRequest(model="mnist", rows=-1)))
    assert (code, "rows" in message) == (grpc.StatusCode.INVALID_ARGUMENT, True)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
async def test_a_rate_is_a_share(serving: Serving, tmp_path: Path, rate: float) -> None:
    with pytest.raises(SettingsError, match="--shift-sample-rate"):
        await serving.start(shift_sample_rate=rate)

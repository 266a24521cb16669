"""model shift."""

import json
from typing import Any

import pytest

from batchyard.client import ModelShift
from batchyard.client.testing import FakeService


@pytest.fixture
def shifted(service: FakeService) -> ModelShift:
    shift = ModelShift(
        model="tiny", version="2", sample_rate=0.01, rows=512, window_rows=4096, least_rows=32, shift=0.625
    )
    layer = shift.layers.add(layer="norm1", measured_channels=100, shift=0.625)
    layer.channels.add(channel=17, mean_shift=-1.5, std_ratio=0.5, shift=2.5)
    shift.left_out["norm2"] = "its gamma is near 0 in every channel"
    service.shifts["tiny"] = shift
    return shift


def test_the_shift_of_each_layer_is_told_with_its_worst_channels(run: Any, shifted: ModelShift) -> None:
    lines = run("model", "shift", "tiny").stdout.splitlines()
    assert "shift\t0.625" in lines
    assert "sampled rows\t512 of at most 4,096, 1.00% of the requests" in lines
    assert "norm2 is not measured\tits gamma is near 0 in every channel" in lines
    assert lines[-1] == "norm1\t100\t0.625\t17: mean -1.50, deviation x0.50"


def test_too_few_rows_make_no_number(run: Any, service: FakeService) -> None:
    service.shifts["tiny"] = ModelShift(model="tiny", version="2", rows=3, least_rows=32)
    service.shifts["tiny"].layers.add(layer="norm1", measured_channels=100)
    lines = run("model", "shift", "tiny").stdout.splitlines()
    assert "shift\tunknown until 32 rows are measured" in lines
    assert lines[-1] == "norm1\t100\t-\t-"
    assert "shift" not in json.loads(run("model", "shift", "tiny", "--json").stdout)


def test_a_version_and_a_number_of_channels_may_be_asked_for(
    run: Any, service: FakeService, shifted: ModelShift
) -> None:
    told = json.loads(run("model", "shift", "tiny/2", "--channels", "-1", "--json").stdout)
    assert told["layers"][0]["channels"][0]["channel"] == 17
    _, request, _ = service.calls[-1]
    assert (request.model, request.version, request.channels) == ("tiny", "2", -1)


def test_a_model_that_is_not_served_is_an_error(run: Any, shifted: ModelShift) -> None:
    result = run("model", "shift", "other")
    assert result.exit_code == 1
    assert "other does not exist" in result.stderr

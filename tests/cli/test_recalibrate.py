"""model recalibrate."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from batchyard.client.testing import FakeService
from batchyard.v1.shift_pb2 import SampledInputs

PIXELS = np.arange(160, dtype=np.uint8).reshape(40, 1, 2, 2)


def received(service: FakeService) -> tuple[Any, Any]:
    """The spec and the inputs of the one recalibration that was asked for."""
    ((_, requests, _),) = [call for call in service.calls if call[0] == "RecalibrateModel"]
    content = b"".join(request.chunk for request in requests[2:])
    assert requests[1].file.size == len(content)
    return requests[0].spec, np.load(io.BytesIO(content))["inputs"]


@pytest.mark.parametrize(("given", "name"), [("tiny", "tiny@production"), ("tiny/2", "tiny/versions/2")])
def test_the_inputs_go_to_the_control_plane_and_the_new_version_is_told(
    run: Any, service: FakeService, digit_model: str, tmp_path: Path, given: str, name: str
) -> None:
    np.savez(tmp_path / "pixels.npz", inputs=PIXELS)
    lines = run("model", "recalibrate", given, "--inputs", "pixels.npz", "--prior", "8").stdout.splitlines()
    assert "version\tmodels/tiny/versions/3" in lines
    assert "made from\tmodels/tiny/versions/2" in lines
    assert "prior\t8 samples" in lines
    spec, inputs = received(service)
    assert (spec.name, spec.prior) == (f"models/{name}", 8.0)
    assert np.array_equal(inputs, PIXELS)
    assert service.models["models/tiny"].aliases == {"production": 2}


def test_sampled_requests_may_be_the_inputs(run: Any, service: FakeService, digit_model: str) -> None:
    service.sampled["tiny@production"] = SampledInputs(datatype="UINT8", shape=PIXELS.shape, raw=PIXELS.tobytes())
    told = json.loads(run("model", "recalibrate", "tiny", "--sampled", "--json").stdout)
    assert told["sources"] == ["models/tiny/versions/2"]
    assert np.array_equal(received(service)[1], PIXELS)


def test_a_model_that_nobody_has_asked_yet_is_not_recalibrated_on_that(
    run: Any, service: FakeService, digit_model: str
) -> None:
    service.sampled["tiny@production"] = SampledInputs(datatype="UINT8", shape=(0, 1, 2, 2), raw=b"")
    result = run("model", "recalibrate", "tiny", "--sampled")
    assert result.exit_code == 1
    assert "tiny@production: 0 rows were sampled; expected 2 or more" in result.stderr
    assert "--shift-sample-rate" in result.stderr


def test_a_folder_of_pictures_may_be_the_inputs(
    run: Any, service: FakeService, digit_model: str, tmp_path: Path
) -> None:
    (tmp_path / "pictures").mkdir()
    for number, picture in enumerate(PIXELS[:3]):
        Image.fromarray(picture[0]).save(tmp_path / "pictures" / f"{number}.png")
    assert run("model", "recalibrate", "tiny", "--inputs", "pictures").exit_code == 0
    assert np.array_equal(received(service)[1], PIXELS[:3])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "give one of --inputs FILE and --sampled"),
        (("--inputs", "pixels.npz", "--sampled"), 2, "give one of --inputs FILE and --sampled"),
        (("--inputs", "nothing.npz"), 2, "nothing.npz: not a readable NPZ file"),
        (("--inputs", "several.npz"), 2, "it holds a, b"),
        (("--inputs", "one.npz"), 1, "at least 2 rows"),
        (("--sampled", "--prior", "-1"), 2, "--prior"),
    ],
)
def test_inputs_that_cannot_be_read_are_refused(
    run: Any, digit_model: str, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    np.savez(tmp_path / "pixels.npz", inputs=PIXELS)
    np.savez(tmp_path / "several.npz", a=PIXELS, b=PIXELS)
    np.savez(tmp_path / "one.npz", PIXELS[:1])
    result = run("model", "recalibrate", "tiny", *arguments)
    assert said in result.stderr
    assert result.exit_code == code

"""predict, and how pictures are made to fit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from batchyard.cli import pictures
from batchyard.cli.failures import Failure
from batchyard.client.testing import FakeService

SHAPE = (-1, 1, 2, 2)


def load(path: Path, shape: tuple[int, ...] = SHAPE, invert: bool = False) -> tuple[Any, tuple[str, ...]]:
    loaded = pictures.load(path, shape, invert=invert)
    return loaded.pixels, loaded.notes


def save(path: Path, array: Any, mode: str | None = None) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        image = Image.fromarray(np.asarray(array))
        (image.convert(mode) if mode else image).save(path)
    return path


GREY = np.array([[0, 50], [100, 20]], dtype=np.uint8)


def test_predict_prints_the_top_classes(run: Any, digit_model: str, tmp_path: Path) -> None:
    save(tmp_path / "d.png", np.array([[0, 2], [1, 0]], np.uint8))
    result = run("predict", "tiny", "d.png", "--top", "2")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "0\tone\t61.03%\n0\ttwo\t22.45%\n"


def test_predict_as_json_names_the_version_and_the_changes(run: Any, digit_model: str, tmp_path: Path) -> None:
    save(tmp_path / "d.png", np.kron(GREY, np.ones((3, 3), np.uint8)))
    answer = json.loads(run("predict", "tiny/2", "d.png", "--json", "--top", "1").stdout)
    assert (answer["model"], answer["version"]) == ("tiny", "2")
    assert answer["notes"] == ["resized from 6 x 6 to 2 x 2"]
    assert answer["rows"] == [{"classes": [{"class": 2, "label": "two", "probability": 1.0}]}]


def test_predict_says_on_stderr_what_it_did(run: Any, digit_model: str, tmp_path: Path) -> None:
    save(tmp_path / "d.png", np.kron(GREY, np.ones((3, 3), np.uint8)))
    assert run("predict", "tiny", "d.png").stderr == "d.png: resized from 6 x 6 to 2 x 2\n"


def test_predict_takes_several_rows(run: Any, digit_model: str, tmp_path: Path) -> None:
    save(tmp_path / "d.npy", np.eye(4, dtype=np.uint8).reshape(4, 2, 2) * 50)
    rows = [line.split("\t")[:2] for line in run("predict", "tiny", "d.npy", "--top", "1").stdout.splitlines()]
    assert rows == [["0", "zero"], ["1", "one"], ["2", "two"], ["3", "three"]]


def test_class_names_are_left_out_when_the_control_plane_is_away(run: Any, digit_model: str, tmp_path: Path) -> None:
    save(tmp_path / "d.png", GREY)
    result = run("predict", "tiny", "d.png", "--top", "1", "--control", "127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (0, "0\t2\t100.00%\n")


def test_a_model_that_is_not_served_is_exit_code_1(run: Any, tmp_path: Path) -> None:
    save(tmp_path / "d.png", GREY)
    assert run("predict", "nothing", "d.png").exit_code == 1


def test_a_fitting_grey_picture_is_sent_as_it_is(tmp_path: Path) -> None:
    pixels, notes = load(save(tmp_path / "a.png", GREY))
    assert (pixels.tolist(), pixels.dtype, notes) == ([[GREY.tolist()]], np.uint8, ())


def test_grey_stored_as_colour_is_no_change_worth_telling(tmp_path: Path) -> None:
    pixels, notes = load(save(tmp_path / "a.png", GREY, "RGB"))
    assert (pixels.tolist(), notes) == ([[GREY.tolist()]], ())


def test_colour_is_made_grey_and_grey_colour(tmp_path: Path) -> None:
    colour = np.zeros((2, 2, 3), np.uint8)
    colour[..., 0] = 100
    pixels, notes = load(save(tmp_path / "a.png", colour))
    assert (pixels.shape, notes) == ((1, 1, 2, 2), ("made grey from RGB",))
    assert pixels.max() == 30, "ITU-R 601: 0.299 of red"
    pixels, notes = load(save(tmp_path / "b.png", GREY), (-1, 3, 2, 2))
    assert (pixels.tolist(), notes) == ([[GREY.tolist()] * 3], ("made colour from L",))


def test_transparent_parts_become_black(tmp_path: Path) -> None:
    rgba = np.full((2, 2, 4), 90, np.uint8)
    rgba[0, 0, 3] = 0
    rgba[1, 1, 3] = 255
    pixels, notes = load(save(tmp_path / "a.png", rgba))
    assert pixels[0, 0, 0, 0] == 0
    assert pixels[0, 0, 1, 1] == 90
    assert notes == ("transparent parts made black",)


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    pixels, notes = load(save(tmp_path / "a.png", np.array([[0, 65535], [257, 0]], np.uint16)))
    assert (pixels.tolist(), notes) == ([[[[0, 255], [1, 0]]]], ("brought from 0..65535 to 0..255",))


def test_dark_ink_on_white_is_told_and_exchanged_on_request(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 255 - GREY)
    assert "--invert" in load(path)[1][0]
    pixels, notes = load(path, invert=True)
    assert (pixels.tolist(), notes) == ([[GREY.tolist()]], ("light and dark exchanged, as --invert asks",))


def test_shrinking_averages(tmp_path: Path) -> None:
    board = np.indices((8, 8)).sum(axis=0) % 2 * 200
    pixels, _ = load(save(tmp_path / "a.png", board.astype(np.uint8)))
    assert pixels.tolist() == [[[[100, 100], [100, 100]]]]


@pytest.mark.parametrize("shape", [(2, 2), (1, 2, 2), (5, 2, 2), (5, 1, 2, 2)])
def test_arrays_may_leave_out_what_is_one(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels, notes = load(save(tmp_path / "a.npy", np.zeros(shape, np.int64)))
    assert (pixels.shape[1:], pixels.dtype, notes) == ((1, 2, 2), np.uint8, ())


def test_an_array_of_another_size_is_resized(tmp_path: Path) -> None:
    pixels, notes = load(save(tmp_path / "a.npy", np.kron(GREY, np.ones((2, 2), np.uint8)).astype(np.float64)))
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[0, 0], GREY)
    assert notes == ("resized from 4 x 4 to 2 x 2",)


def test_an_array_from_0_to_1_is_sent_but_remarked(tmp_path: Path) -> None:
    pixels, notes = load(save(tmp_path / "a.npy", np.full((2, 2), 0.5)))
    assert pixels.max() == 0.5
    assert "0..1" in notes[0]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((2, 2), 256), "values from 256 to 256; expected 0 to 255"),
        (np.full((2, 2), -1), "values from -1"),
        (np.full((2, 2), np.nan), "values from nan"),
        (np.zeros((2, 2, 2, 2, 2)), "shape [2, 2, 2, 2, 2] given; expected [N, 1, height, width]"),
        (np.zeros((5, 3, 2, 2)), "shape [5, 3, 2, 2] given"),
        (np.zeros(4), "shape [4] given"),
        (np.zeros((0, 2, 2)), "float64 of shape [0, 2, 2] given; expected an array of numbers"),
        (np.array([["a"]]), "expected an array of numbers"),
    ],
)
def test_an_array_that_is_no_picture_is_refused(tmp_path: Path, array: Any, words: str) -> None:
    with pytest.raises(Failure) as caught:
        load(save(tmp_path / "a.npy", array))
    assert words in caught.value.message


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(Failure, match="not a readable NPY file"):
        load(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["a.png", "a.npy"])
def test_files_that_are_missing_cut_short_or_something_else_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(Failure, match="no such file"):
        load(path)
    save(path, np.random.default_rng(1).integers(0, 100, (40, 40), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(Failure, match="not a readable"):
        load(path)
    path.write_bytes(b"words")
    with pytest.raises(Failure, match="not a readable"):
        load(path)


def test_a_model_that_takes_no_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="not a picture"):
        load(save(tmp_path / "a.png", GREY), (-1, 10))


def test_a_refusal_of_the_file_is_wrong_usage(run: Any, service: FakeService, digit_model: str) -> None:
    result = run("predict", "tiny", "nothing.png")
    assert result.exit_code == 2
    assert result.stderr.startswith("batchyard: nothing.png: no such file\n  ")
    assert not [method for method, _, _ in service.calls if method == "ModelInfer"]

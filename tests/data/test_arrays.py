"""NPZ and Parquet by URI."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from batchyard import data
from batchyard.data import DataError, Options

Png = Callable[..., bytes]
RANDOM = np.random.default_rng(3)
GREY = RANDOM.integers(0, 256, (6, 5, 4)).astype(np.uint8)
COLOUR = RANDOM.integers(0, 256, (6, 5, 4, 3)).astype(np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def npz(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return path.as_uri()


@pytest.mark.parametrize("names", [("train_images", "train_labels", "test_images", "test_labels"),
                                   ("x_train", "y_train", "x_test", "y_test")], ids=["plain", "keras"])  # fmt: skip
@pytest.mark.parametrize(
    ("images", "shape"),
    [(GREY, (1, 5, 4)), (COLOUR, (3, 5, 4)), (COLOUR.transpose(0, 3, 1, 2), (3, 5, 4))],
    ids=["grey", "channels-last", "channels-first"],
)
def test_arrays_are_read_in_every_layout(
    names: tuple[str, ...], images: np.ndarray, shape: tuple[int, ...], tmp_path: Path, options: Options
) -> None:
    arrays = dict(zip(names, (images, LABELS.reshape(-1, 1), images[:3], LABELS[:3]), strict=True))
    dataset = data.load(npz(tmp_path / "a.npz", **arrays), [], options)
    assert dataset.image_shape == shape
    assert (dataset.train.labels.tolist(), dataset.test.labels.tolist()) == (LABELS.tolist(), [0, 1, 2])
    assert dataset.classes == ("0", "1", "2")
    planes = images[:, None] if images.ndim == 3 else COLOUR.transpose(0, 3, 1, 2)
    assert np.array_equal(dataset.train.images, planes)


def test_names_as_labels_are_sorted_and_names_of_numbers_are_kept(tmp_path: Path, options: Options) -> None:
    names = np.array(["dog", "ape", "cat"])[LABELS]
    spelt = data.load(npz(tmp_path / "a.npz", images=GREY, labels=names), [], options)
    assert spelt.classes == ("ape", "cat", "dog")
    told = data.load(npz(tmp_path / "b.npz", images=GREY, labels=LABELS, classes=["x", "y", "z"]), [], options)
    assert told.classes == ("x", "y", "z")


def test_without_a_test_part_one_is_split_off(tmp_path: Path, options: Options) -> None:
    half = dataclasses.replace(options, test_share=0.5)
    dataset = data.load(npz(tmp_path / "a.npz", images=GREY, labels=np.arange(6)), [], half)
    assert (len(dataset.train), len(dataset.test)) == (3, 3)
    for split in (dataset.train, dataset.test):
        assert np.array_equal(split.images[:, 0], GREY[split.labels])


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pictures": GREY}, "has the arrays pictures; expected train_images, train_labels"),
        ({"images": GREY / 255, "labels": LABELS}, "images is of float64; expected uint8"),
        ({"images": GREY[:, :, :, None, None], "labels": LABELS}, "images is 6x5x4x1x1; expected samples x height"),
        ({"images": GREY, "labels": LABELS / 2}, "labels is 6 of float64; expected one whole number or name"),
        ({"images": GREY, "labels": LABELS[:5]}, "6 images and 5 labels"),
        ({"images": GREY, "labels": np.array([{}] * 6)}, "cannot be read as an NPZ of plain arrays"),
        ({"images": GREY, "labels": LABELS - 1}, "label -1 of sample"),
    ],
    ids=["names", "float", "shape", "label-kind", "counts", "pickle", "negative"],
)
def test_wrong_arrays_are_named(arrays: dict[str, Any], words: str, tmp_path: Path, options: Options) -> None:
    with pytest.raises(DataError, match=words):
        data.load(npz(tmp_path / "a.npz", **arrays), [], options)


def test_arrays_are_not_resized(tmp_path: Path, options: Options) -> None:
    uri = npz(tmp_path / "a.npz", images=GREY, labels=LABELS)
    with pytest.raises(DataError, match=r"data.image_size: 8 given; the images of .* are 4x5"):
        data.load(uri, [], dataclasses.replace(options, image_size=8))


def parquet(
    path: Path, images: list[Any], labels: list[Any], names: Any = None, image: str = "image", label: str = "label"
) -> str:
    table = pyarrow.table({image: images, label: labels})
    if names:
        features = {"info": {"features": {label: {"names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, row_group_size=3)
    return path.as_uri()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1)


@pytest.mark.parametrize("wrap", [bytes, lambda content: {"bytes": content, "path": "x.png"}], ids=["bytes", "struct"])
def test_rows_of_a_folder_of_parquet_are_read_in_order(
    wrap: Callable[[bytes], Any], png: Png, tmp_path: Path, options: Options
) -> None:
    contents = [png(seed) for seed in range(10)]
    folder = tmp_path / "set"
    for number, part in enumerate((contents[:4], contents[4:8])):
        parquet(folder / f"train-{number}.parquet", [wrap(c) for c in part], [0, 1, 1, 0], names=["no", "yes"])
    parquet(folder / "test-0.parquet", [wrap(c) for c in contents[8:]], [1, 0], names=["no", "yes"])
    for _ in range(2):  # taken out now, and then before
        dataset = data.load(folder.as_uri(), [], options)
        assert dataset.classes == ("no", "yes")
        assert dataset.train.labels.tolist() == [0, 1, 1, 0, 0, 1, 1, 0]
        assert np.array_equal(dataset.train.images, np.stack([pixels(content) for content in contents[:8]]))
        assert np.array_equal(dataset.test.images, np.stack([pixels(content) for content in contents[8:]]))


def test_one_parquet_file_is_split_and_keeps_rows_and_labels_together(
    png: Png, tmp_path: Path, options: Options
) -> None:
    contents = [png(seed) for seed in range(10)]
    uri = parquet(tmp_path / "a.parquet", contents, [f"c{i}" for i in range(10)], image="img", label="labels")
    dataset = data.load(uri, [], options)
    assert (len(dataset.train), len(dataset.test)) == (8, 2)
    for split in (dataset.train, dataset.test):
        expected = [pixels(contents[int(dataset.classes[label][1:])]) for label in split.labels]
        assert np.array_equal(split.images, np.stack(expected))


@pytest.mark.parametrize(
    ("images", "labels", "columns", "words"),
    [
        ([b"", b""], [0, 1], {"image": "photo"}, "has the columns photo, label; expected one called image or img"),
        ([b"", b""], [0, 1], {"label": "kind"}, "has the columns image, kind; expected one called label or labels"),
        (["a.png", "b.png"], [0, 1], {}, "column image holds str; expected encoded images as bytes"),
        ([b"", b""], [0, None], {}, "column label holds None; expected whole numbers or names"),
        ([b"x", b"y"], [0, 1], {}, r"a.parquet row \d cannot be decoded"),
    ],
    ids=["no-image", "no-label", "paths", "null", "corrupt"],
)
def test_wrong_parquet_is_told_what_is_expected(
    images: list[Any], labels: list[Any], columns: dict[str, str], words: str, tmp_path: Path, options: Options
) -> None:
    named = {"image": columns.get("image", "image"), "label": columns.get("label", "label")}
    uri = parquet(tmp_path / "a.parquet", images, labels, image=named["image"], label=named["label"])
    with pytest.raises(DataError, match=words):
        data.load(uri, [], options)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path, options: Options) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR?" * 20)
    with pytest.raises(DataError, match=r"a.parquet cannot be read as Parquet"):
        data.load((tmp_path / "a.parquet").as_uri(), [], options)

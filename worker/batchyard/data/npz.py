"""Datasets as arrays in an NPZ file: numpy.savez(file, train_images=..., train_labels=..., ...). Never pickles."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from batchyard.data.dataset import Dataset, Split
from batchyard.data.errors import DataError
from batchyard.data.labelling import numbered
from batchyard.data.location import Location
from batchyard.data.options import Options
from batchyard.data.splitting import chosen_for_testing

NAMES = (("train_images", "train_labels", "test_images", "test_labels"), ("x_train", "y_train", "x_test", "y_test"))
"""Of the arrays; the second is how Keras calls them."""
WHOLE = ("images", "labels")
"""Without a test part: it is split off."""
CHANNELS = (1, 3)
Arrays = Mapping[str, NDArray[np.generic]]


def load_npz(name: str, location: Location, options: Options) -> Dataset:
    """The dataset in the file at `location`. Raises DataError naming the array.

    Images are uint8, [samples, height, width], with channels last or right after the samples; labels are whole numbers
    from 0 or names, and `classes`, where there is such an array, names the numbers.
    """
    arrays, where = _arrays(location, options), location.uri
    images, labels = _all(arrays, where)
    pixels = [_planes(array, f"{where}: {key}") for key, array in images.items()]
    given = [str(each) for each in arrays["classes"].tolist()] if "classes" in arrays else None
    flat = [_flat(array, f"{where}: {key}") for key, array in labels.items()]
    numbers, classes = numbered(flat, given, where)
    parts = [Split(images=each, labels=number) for each, number in zip(pixels, numbers, strict=True)]
    train, test = parts if len(parts) == 2 else _divided(parts[0], options.test_share, where)
    dataset = Dataset(name=name, train=train, test=test, classes=classes)
    if options.image_size and dataset.image_shape[1:] != (options.image_size, options.image_size):
        height, width = dataset.image_shape[1:]
        cause = f"data.image_size: {options.image_size} given; the images of {where} are {width}x{height}"
        raise DataError(cause, "arrays are taken as they are: leave data.image_size out")
    return dataset


def _arrays(location: Location, options: Options) -> Arrays:
    path = location.local(options)
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, TypeError) as error:
        cause = f"{location.uri} cannot be read as an NPZ of plain arrays: {error}"
        raise DataError(cause, "write it again with numpy.savez, without objects") from error


def _all(arrays: Arrays, where: str) -> tuple[Arrays, Arrays]:
    """The arrays of images and those of labels, of one part or of two."""
    for names in (*NAMES, WHOLE):
        if all(name in arrays for name in names):
            return {name: arrays[name] for name in names[::2]}, {name: arrays[name] for name in names[1::2]}
    expected = " or ".join(", ".join(names) for names in (*NAMES, WHOLE))
    cause = f"{where} has the arrays {', '.join(sorted(arrays)) or 'none'}; expected {expected}"
    raise DataError(cause, "name the arrays so")


def _planes(images: NDArray[np.generic], where: str) -> NDArray[np.uint8]:
    """The images as [samples, channels, height, width]."""
    if images.dtype != np.uint8:
        raise DataError(f"{where} is of {images.dtype}; expected uint8, 0 to 255", "scale and convert it first")
    pixels: NDArray[np.uint8] = images  # type: ignore[assignment]  # just looked at
    if pixels.ndim == 3:
        return pixels[:, np.newaxis]
    if pixels.ndim == 4 and pixels.shape[3] in CHANNELS:
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    if pixels.ndim == 4 and pixels.shape[1] in CHANNELS:
        return pixels
    shape = "x".join(str(side) for side in images.shape)
    expected = "samples x height x width, with 1 or 3 channels last or after the samples"
    raise DataError(f"{where} is {shape}; expected {expected}", "give the array such a shape")


def _flat(labels: NDArray[np.generic], where: str) -> NDArray[np.generic]:
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or flat.dtype.kind not in "iuUS":
        shape = "x".join(str(side) for side in labels.shape)
        cause = f"{where} is {shape} of {labels.dtype}; expected one whole number or name for each sample"
        raise DataError(cause, "give one label for each image")
    return flat


def _divided(split: Split, test_share: float, where: str) -> tuple[Split, Split]:
    if len(split.images) != len(split.labels):
        counts = f"{len(split.images)} images and {len(split.labels)} labels"
        raise DataError(f"{where}: {counts}; expected as many of each", "give one label for each image")
    tests = chosen_for_testing(len(split), test_share)
    train, test = (Split(images=split.images[mask], labels=split.labels[mask]) for mask in (~tests, tests))
    return train, test

"""A labelled set of images in memory, checked when it is made. numpy only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from batchyard.data.errors import DataError

CHUNK = 1 << 20
"""Pixels counted at a time: bincount widens them to 8 bytes each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Training or test samples."""

    images: NDArray[np.uint8]
    """[samples, channels, height, width], 0 to 255."""
    labels: NDArray[np.int64]
    """[samples], from 0 up to but not including the number of classes."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def count(self) -> int:
        """How many images there are: as many as labels, if all is well."""
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height, width."""
        return self.images.shape[1:]

    def read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images [n, channels, height, width] and labels [n] of the samples at `indices` [n]."""
        return self.images[indices], self.labels[indices]

    def spread(self, most: int) -> NDArray[np.uint8]:
        """At most `most` images, evenly spaced: files in folders lie class by class, and the first are all of one."""
        return self.read(np.linspace(0, len(self) - 1, min(most, len(self))).round().astype(np.int64))[0]


@dataclass(frozen=True, kw_only=True)
class Known:
    """What was worked out about a dataset before, so that it need not be again."""

    sha256: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Training and test samples of one dataset. Raises DataError when they do not belong together."""

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    """The name of each label."""
    known: Known | None = None

    def __post_init__(self) -> None:
        for part, split in (("training", self.train), ("test", self.test)):
            _check(f"dataset {self.name}, {part} part", split, len(self.classes))
        train, test = self.train.shape, self.test.shape
        if train != test:
            cause = f"dataset {self.name}: training images are {_size(train)}, test images {_size(test)}"
            raise DataError(cause, "use training and test files of the same dataset")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train.shape
        return channels, height, width

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal digest over names of classes, shapes and content of both parts."""
        if self.known:
            return self.known.sha256
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for split in (self.train, self.test):
            for array in (split.images, split.labels.astype("<i8")):
                digest.update(repr(array.shape).encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @cached_property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel of the training images, of pixels scaled to [0, 1]."""
        return self.known.mean if self.known else tuple(mean for mean, _ in self._moments)

    @cached_property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel of the training images, of pixels scaled to [0, 1]; above 0."""
        return self.known.std if self.known else tuple(std for _, std in self._moments)

    @cached_property
    def _moments(self) -> tuple[tuple[float, float], ...]:
        return moments(self.name, self.train.images)


def moments(name: str, images: NDArray[np.uint8]) -> tuple[tuple[float, float], ...]:
    """Mean and standard deviation of each channel of `images` [n, channels, height, width] of the dataset `name`, of
    pixels scaled to [0, 1]. Raises DataError for a channel without any contrast.
    """
    return tuple(_channel_moments(name, images, channel) for channel in range(images.shape[1]))


def _channel_moments(name: str, images: NDArray[np.uint8], channel: int) -> tuple[float, float]:
    """From a histogram of whole numbers: exact, so that every worker on every machine gets the same bits."""
    pixels = images[:, channel].reshape(-1)
    counts = np.zeros(256, np.int64)
    for start in range(0, len(pixels), CHUNK):
        counts += np.bincount(pixels[start : start + CHUNK], minlength=256)
    values = np.arange(256) / 255
    mean = float(counts @ values) / len(pixels)
    std = float(np.sqrt(counts @ (values - mean) ** 2 / len(pixels)))
    if std == 0:
        cause = f"dataset {name}: every training pixel of channel {channel} has the same value"
        raise DataError(cause, "check the data files: there is nothing to learn from")
    return mean, std


def _check(where: str, split: Split, classes: int) -> None:
    if split.count != len(split.labels):
        cause = f"{where}: {split.count} images and {len(split.labels)} labels; expected as many of each"
        raise DataError(cause, "use the image and the label file of the same part of the dataset")
    if len(split.labels) == 0:
        raise DataError(f"{where} is empty", "use data files that hold samples")
    if split.labels.min() < 0 or split.labels.max() >= classes:
        wrong = int(np.argmax((split.labels < 0) | (split.labels >= classes)))
        cause = f"{where}: label {split.labels[wrong]} of sample {wrong} is out of range; expected 0 to {classes - 1}"
        raise DataError(cause, "correct the label file")


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape)

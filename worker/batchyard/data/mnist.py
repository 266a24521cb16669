"""MNIST: 60,000 + 10,000 handwritten digits, 28x28, from the four IDX files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from batchyard.data.dataset import Dataset, Split
from batchyard.data.errors import DataError
from batchyard.data.idx import read_idx

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
PLACES = ("", "mnist", "MNIST/raw")
"""Looked in below each data folder; the last is where torchvision puts the files."""
NEXT_STEP = (
    "put the four MNIST files in one of these folders, name their folder when the service starts, or use "
    "data.dataset: digits, which needs no file"
)


def load(folders: Sequence[str]) -> Dataset:
    """MNIST from the first of `folders` that has it. Raises DataError."""
    train_images, train_labels, test_images, test_labels = _find(folders)
    train, test = _split(train_images, train_labels), _split(test_images, test_labels)
    return Dataset(name="mnist", train=train, test=test, classes=tuple(str(digit) for digit in range(10)))


def _find(folders: Sequence[str]) -> list[Path]:
    """The four files, all from one place, so that parts of two copies are never mixed."""
    places = [Path(folder) / place for folder in folders for place in PLACES]
    for place in places:
        found = [path for name in FILES if (path := _file(place, name))]
        if len(found) == len(FILES):
            return found
        if found:
            missing = ", ".join(name for name in FILES if _file(place, name) is None)
            raise DataError(f"dataset mnist: {missing} (or .gz) not found in {place}, which has the rest", NEXT_STEP)
    looked = ", ".join(str(place) for place in places) or "no folder: none is configured"
    raise DataError(f"dataset mnist: {FILES[0]} (or .gz) not found; looked in {looked}", NEXT_STEP)


def _file(place: Path, name: str) -> Path | None:
    names = (name, f"{name}.gz", name.replace("-idx", ".idx"))
    return next((path for each in names if (path := place / each).is_file()), None)


def _split(images: Path, labels: Path) -> Split:
    pixels = read_idx(images, dimensions=3)
    return Split(images=pixels[:, np.newaxis], labels=read_idx(labels, dimensions=1).astype(np.int64))

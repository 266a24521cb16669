"""MNIST and Fashion-MNIST: 60,000 + 10,000 grey images, 28x28, from four IDX files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from batchyard.data import fetch
from batchyard.data.dataset import Dataset, Split
from batchyard.data.errors import DataError
from batchyard.data.idx import read_idx
from batchyard.data.options import Options
from batchyard.data.places import Search, find

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
DIGITS = tuple(str(digit) for digit in range(10))
CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")
"""Fashion-MNIST's classes, in the order of their labels (github.com/zalandoresearch/fashion-mnist)."""
WANTED = f"{FILES[0]} (or .gz) and its three companions"
MNIST = Search(dataset="mnist", places=("", "mnist", "MNIST/raw"), wanted=WANTED, published=fetch.MNIST)
"""The last place is where torchvision puts the files."""
FASHION_MNIST = Search(
    dataset="fashion_mnist",
    places=("fashion_mnist", "fashion-mnist", "FashionMNIST/raw"),
    wanted=WANTED,
    published=fetch.FASHION_MNIST,
)
"""Never directly in a data folder: the files are called as MNIST's are."""


def load(folders: Sequence[str], options: Options) -> Dataset:
    """MNIST from the first of `folders` that has it. Raises DataError."""
    return _load(MNIST, DIGITS, folders, options)


def load_fashion(folders: Sequence[str], options: Options) -> Dataset:
    """Fashion-MNIST from the first of `folders` that has it. Raises DataError."""
    return _load(FASHION_MNIST, CLOTHES, folders, options)


def _load(search: Search, classes: tuple[str, ...], folders: Sequence[str], options: Options) -> Dataset:
    files, _ = find(search, folders, options, lambda place: _look(search.dataset, place))
    train, test = _split(*files[:2]), _split(*files[2:])
    return Dataset(name=search.dataset, train=train, test=test, classes=classes)


def _look(dataset: str, place: Path) -> list[Path] | None:
    """The four files, all from one place, so that parts of two copies are never mixed."""
    found = [path for name in FILES if (path := _file(place, name))]
    if found and len(found) < len(FILES):
        missing = ", ".join(name for name in FILES if _file(place, name) is None)
        cause = f"dataset {dataset}: {missing} (or .gz) not found in {place}, which has the rest"
        raise DataError(cause, f"put {missing} there, too")
    return found or None


def _file(place: Path, name: str) -> Path | None:
    names = (name, f"{name}.gz", name.replace("-idx", ".idx"))
    return next((path for each in names if (path := place / each).is_file()), None)


def _split(images: Path, labels: Path) -> Split:
    pixels = read_idx(images, dimensions=3)
    return Split(images=pixels[:, np.newaxis], labels=read_idx(labels, dimensions=1).astype(np.int64))

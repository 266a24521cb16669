"""digits: 1,797 handwritten digits, 8x8, that come inside scikit-learn (from the UCI set "Optical Recognition of
Handwritten Digits"). Needs no network and no file of the user's.

Each pixel counts 0 to 16 inked dots; here it is round(count x 255 / 16), so that pixels are 0 to 255 like those of any
image. No two counts fall together. One sample in five is for testing, chosen by a fixed shuffle: the set has no
official split.
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from batchyard.data.dataset import Dataset, Split
from batchyard.data.errors import DataError
from batchyard.data.order import permutation

SIDE = 8
INK = 16
"""The highest count."""
SPLIT_SEED = 20150211
"""Of the shuffle before the split; any number would do, but never another."""
TEST_SHARE = 5
"""One in this many."""


def load() -> Dataset:
    """The digits. Raises DataError when scikit-learn, which carries them, is not installed."""
    table = _table()
    table = table[permutation(SPLIT_SEED, 0, len(table))]
    tests = len(table) // TEST_SHARE
    classes = tuple(str(digit) for digit in range(10))
    return Dataset(name="digits", train=_split(table[tests:]), test=_split(table[:tests]), classes=classes)


def _table() -> NDArray[np.int64]:
    """One row per sample: 64 counts and the label. Read without importing scikit-learn, which takes over a second."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("dataset digits: scikit-learn is not installed", "pip install scikit-learn")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        with gzip.open(path, "rt") as file:
            return np.loadtxt(file, delimiter=",", dtype=np.int64)
    except (OSError, EOFError, ValueError) as error:
        cause = f"dataset digits: {path} cannot be read: {error}"
        raise DataError(cause, "install scikit-learn 1.5 or newer again") from error


def _split(rows: NDArray[np.int64]) -> Split:
    pixels = np.rint(rows[:, :-1] * (255 / INK)).astype(np.uint8)
    return Split(images=pixels.reshape(-1, 1, SIDE, SIDE), labels=rows[:, -1])

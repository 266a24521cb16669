"""Labels as they are given, whole numbers or names, made into numbers from 0 and names of classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from batchyard.data.errors import DataError

MOST_CLASSES = 1_000_000


def numbered(
    labels: Sequence[NDArray[np.generic]], classes: Sequence[str] | None, where: str
) -> tuple[list[NDArray[np.int64]], tuple[str, ...]]:
    """The labels of each part as numbers, and the classes' names.

    Args:
        labels: of each part, [samples], all of whole numbers or all of names.
        classes: names of the numbers, where they are known; names given as labels are sorted instead.
        where: names the dataset in errors.

    Raises DataError for numbers that can be no classes.
    """
    together = np.concatenate([np.asarray(part) for part in labels])
    if together.dtype.kind in "US":
        names, numbers = np.unique(together.astype(str), return_inverse=True)
        cuts = np.cumsum([len(part) for part in labels])[:-1]
        return np.split(numbers.astype(np.int64), cuts), tuple(names.tolist())
    if classes is None:
        highest = int(together.astype(np.int64).max(initial=-1))
        if highest >= MOST_CLASSES:
            raise DataError(f"{where}: label {highest} is out of range", "number the classes from 0")
        classes = [str(number) for number in range(highest + 1)]
    return [part.astype(np.int64) for part in labels], tuple(classes)

"""Datasets by name and the order they are trained in. Read only: nothing is downloaded or written. numpy, no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from batchyard.data import digits, mnist
from batchyard.data.dataset import Dataset, Split
from batchyard.data.errors import DataError
from batchyard.data.order import Order, share

__all__ = ["DATASETS", "DataError", "Dataset", "Order", "Split", "load", "share"]

DATASETS: dict[str, Callable[[Sequence[str]], Dataset]] = {
    "digits": lambda folders: digits.load(),
    "mnist": mnist.load,
}
"""A dataset's name to what loads it from the data folders."""


def load(name: str, folders: Sequence[str]) -> Dataset:
    """The dataset called `name`, looked for in `folders` in this order.

    Raises DataError naming the file and what is wrong with it, or every folder looked in.
    """
    if name not in DATASETS:
        raise DataError(f"data.dataset: {name!r} given; expected one of {', '.join(DATASETS)}", "choose one of these")
    return DATASETS[name](folders)

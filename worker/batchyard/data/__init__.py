"""Datasets, by name or by URI, and the order they are trained in. numpy and Pillow, no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from batchyard.data import cifar, digits, mnist
from batchyard.data.dataset import Dataset, Split
from batchyard.data.errors import DataError
from batchyard.data.options import Options
from batchyard.data.order import Order, share

__all__ = ["DATASETS", "DataError", "Dataset", "Options", "Order", "Split", "load", "share"]

DATASETS: dict[str, Callable[[Sequence[str], Options], Dataset]] = {
    "digits": lambda folders, options: digits.load(),
    "mnist": mnist.load,
    "fashion_mnist": mnist.load_fashion,
    "cifar10": cifar.load,
    "cifar100": cifar.load_100,
}
"""A dataset's name to what loads it from the data folders."""


def load(name: str, folders: Sequence[str], options: Options | None = None) -> Dataset:
    """The dataset called `name`, looked for in `folders` in this order or fetched, or the one at the URI `name`.

    Raises DataError naming the file and what is wrong with it, or every folder looked in.
    """
    options = options or Options()
    dataset = _load(name, folders, options)
    if options.cache == "stream" and dataset.known is None:
        cause = f"data.cache: stream given; {name} is not made of image files and is held in memory"
        raise DataError(cause, "leave data.cache out")
    return dataset


def _load(name: str, folders: Sequence[str], options: Options) -> Dataset:
    if "://" in name:
        from batchyard.data.uri import load_uri  # here: it brings Pillow and fsspec, a third of a second

        return load_uri(name, options)
    if name not in DATASETS:
        raise DataError(
            f"data.dataset: {name!r} given; expected one of {', '.join(DATASETS)}", "choose one of these, or give a URI"
        )
    return DATASETS[name](folders, options)

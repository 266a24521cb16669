"""Image files in one folder for each class, below train/ and test/ (or val/), in a folder, a zip or a tar.

Without train/ the class folders are split into training and test samples by a fixed shuffle. Classes are numbered in
the order of their names, samples in that of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchyard.data import decoded
from batchyard.data.dataset import Dataset
from batchyard.data.encoded import Encoded
from batchyard.data.errors import DataError
from batchyard.data.location import Location
from batchyard.data.options import Options
from batchyard.data.splitting import chosen_for_testing
from batchyard.data.tree import Tree, open_tree

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
TRAIN = ("train", "training")
TEST = ("test", "val", "valid", "validation")
"""The first that is there counts."""
LAYOUT = "expected train/CLASS/IMAGE and test/CLASS/IMAGE, or CLASS/IMAGE"


@dataclass(frozen=True)
class Sample:
    """A file and the class its folder says."""

    file: str
    label: str


def load_images(name: str, location: Location, options: Options) -> Dataset:
    """The dataset at `location`, called `name`. Raises DataError."""
    tree = open_tree(location, options)
    train, test = _parts(tree, options.test_share)
    classes = tuple(sorted({sample.label for sample in train}))
    if strange := sorted({sample.label for sample in test} - set(classes)):
        cause = f"{tree.where}: the test part has classes that the training part lacks: {', '.join(strange[:5])}"
        raise DataError(cause, "remove them, or add training images of them")
    parts = (_encoded(tree, part, classes) for part in (train, test))
    return decoded.load(name, classes, *parts, identity=location.identity, options=options)


def _parts(tree: Tree, test_share: float) -> tuple[list[Sample], list[Sample]]:
    files = [name for name in tree.names if _is_image(name)]
    if not files:
        raise DataError(f"{tree.where}: no image file inside; {LAYOUT}", f"known endings: {', '.join(SUFFIXES)}")
    root = _root(files)
    below = {name: name[len(root) :] for name in files}
    tops = {rest.split("/")[0].lower() for rest in below.values() if "/" in rest}
    train_name = next((part for part in TRAIN if part in tops), None)
    test_name = next((part for part in TEST if part in tops), None)
    if train_name is None:
        return _split(_samples(tree, below, ""), test_share)
    train = _samples(tree, below, f"{train_name}/")
    return (train, _samples(tree, below, f"{test_name}/")) if test_name else _split(train, test_share)


def _split(samples: Sequence[Sample], test_share: float) -> tuple[list[Sample], list[Sample]]:
    tests = chosen_for_testing(len(samples), test_share)
    train = [sample for sample, test in zip(samples, tests, strict=True) if not test]
    return train, [sample for sample, test in zip(samples, tests, strict=True) if test]


def _is_image(name: str) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    return not hidden and name.lower().endswith(SUFFIXES)


def _root(files: Sequence[str]) -> str:
    """The folders that all files are below, down to the one that holds the parts or the classes: archives are often
    made of a single folder.
    """
    root = ""
    while True:
        tops = {name[len(root) :].partition("/")[0] for name in files}
        (top, *others) = tops
        inner = f"{root}{top}/"
        deep = all(name.startswith(inner) and name.count("/", len(inner)) >= 1 for name in files)
        if others or top.lower() in TRAIN or not deep:
            return root
        root = inner


def _samples(tree: Tree, below: dict[str, str], part: str) -> list[Sample]:
    """Those in the part, `train/` say, by the folder directly below it."""
    inside = {name: rest[len(part) :] for name, rest in below.items() if rest.lower().startswith(part)}
    if loose := next((name for name, rest in inside.items() if "/" not in rest), None):
        raise DataError(f"{tree.where}: {loose} is in no class's folder; {LAYOUT}", "move it into one")
    return [Sample(name, rest.split("/")[0]) for name, rest in inside.items()]


def _encoded(tree: Tree, samples: Sequence[Sample], classes: Sequence[str]) -> Encoded:
    number = {label: i for i, label in enumerate(classes)}
    labels: NDArray[np.int64] = np.array([number[sample.label] for sample in samples], np.int64)
    names = [f"{tree.where}: {sample.file}" for sample in samples]
    return Encoded(names=names, labels=labels, read=lambda index: tree.read(samples[index].file))

"""Datasets in Parquet: a column `image` of encoded images (bytes, or a struct with the field `bytes`, as Hugging Face
datasets have it) and a column `label` of whole numbers or names. One file, or a folder of files that lie in, or whose
names begin with, train and test (or val); without train all rows are split by a fixed shuffle.

The encoded images are taken out once, into one flat file of the cache that is read at random: Parquet itself can only
be read a row group at a time. Needs pyarrow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchyard.data import decoded
from batchyard.data.dataset import Dataset
from batchyard.data.encoded import Encoded
from batchyard.data.errors import DataError
from batchyard.data.files import RandomReader, locked, replacing
from batchyard.data.labelling import numbered
from batchyard.data.location import Location
from batchyard.data.options import Options
from batchyard.data.splitting import chosen_for_testing

IMAGES, LABELS = ("image", "img", "images"), ("label", "labels", "fine_label", "class")
"""Names of the two columns; the first that is there counts."""
TRAIN, TEST = ("train",), ("test", "val", "valid")
"""How names of files or folders begin; the first that is there counts."""
SUFFIX = ".parquet"
ROWS = 256
"""Read at a time."""


def load_parquet(name: str, location: Location, options: Options) -> Dataset:
    """The dataset at `location`, called `name`. Raises DataError."""
    folder = options.folder / "copies" / location.identity[:32] / "rows"
    with locked(folder.with_suffix(".lock")):
        if not folder.is_dir():
            options.log(f"{location.uri}: taking its images out into {options.folder}")
            with replacing(folder) as partial:
                _take_out(location, partial)
    about = json.loads((folder / "about.json").read_text())
    parts = [_rows(folder, part, about[part]) for part in ("train", "test") if part in about]
    numbers, classes = numbered([part.labels for part in parts], about["classes"], location.uri)
    encoded = [Encoded(names=p.names, labels=n, read=p.read) for p, n in zip(parts, numbers, strict=True)]
    train, test = encoded if len(encoded) == 2 else _divided(encoded[0], options.test_share)
    return decoded.load(name, classes, train, test, identity=location.identity, options=options)


def _rows(folder: Path, part: str, about: dict[str, Any]) -> Encoded:
    """The rows of a part, their labels still as they were given."""
    ends: list[int] = about["ends"]
    images = RandomReader(folder / f"{part}.images")

    def read(index: int) -> bytes:
        start = ends[index - 1] if index else 0
        return images.read(start, ends[index] - start)

    return Encoded(names=about["names"], labels=np.array(about["labels"]), read=read)


def _divided(whole: Encoded, test_share: float) -> tuple[Encoded, Encoded]:
    tests = chosen_for_testing(len(whole), test_share)
    train, test = (_chosen(whole, np.flatnonzero(mask)) for mask in (~tests, tests))
    return train, test


def _chosen(whole: Encoded, indices: NDArray[np.int64]) -> Encoded:
    names = [whole.names[index] for index in indices]
    return Encoded(names=names, labels=whole.labels[indices], read=lambda index: whole.read(int(indices[index])))


def _parts(location: Location) -> dict[str, list[str]]:
    """The files of each part; without one for training, all are."""
    files = [name for name in location.files if name.endswith(SUFFIX) or not name]
    folders = {name: [part for part in name.lower().split("/") if part] for name in files}

    def beginning(words: Sequence[str]) -> list[str]:
        found = ([name for name in files if any(p.startswith(word) for p in folders[name])] for word in words)
        return next((names for names in found if names), [])

    train, test = beginning(TRAIN), beginning(TEST)
    return {"train": train, "test": test} if train and test else {"train": train or files}


def _take_out(location: Location, folder: Path) -> None:
    """Writes each part's images one after the other, and about.json: where they end, labels, names, classes."""
    folder.mkdir(parents=True)
    about: dict[str, Any] = {"classes": None}
    for part, files in _parts(location).items():
        labels: list[int | str] = []
        ends: list[int] = []
        names: list[str] = []
        with (folder / f"{part}.images").open("wb") as flat:
            for file in files:
                for row, (image, label) in enumerate(_read(location, file, about)):
                    flat.write(image)
                    ends.append(flat.tell())
                    labels.append(label)
                    names.append(f"{location.uri}{'/' if file else ''}{file} row {row}")
        about[part] = {"labels": labels, "ends": ends, "names": names}
    (folder / "about.json").write_text(json.dumps(about))


def _read(location: Location, file: str, about: dict[str, Any]) -> Iterator[tuple[bytes, int | str]]:
    """Each row's encoded image and label, a few in memory at a time. Sets the classes where the schema has them."""
    pyarrow, parquet = _pyarrow()
    where = f"{location.uri}{'/' if file else ''}{file}"
    try:
        with location.open(file) as stream:
            table = parquet.ParquetFile(stream)
            image, label = (_column(table.schema_arrow.names, names, where) for names in (IMAGES, LABELS))
            about["classes"] = about["classes"] or _class_names(table.schema_arrow.metadata or {}, label)
            for batch in table.iter_batches(ROWS, columns=[image, label]):
                for content, number in zip(batch[image].to_pylist(), batch[label].to_pylist(), strict=True):
                    yield _content(content, where, image), _label(number, where, label)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{where} cannot be read as Parquet: {error}", "write the file again") from error


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            "reading Parquet needs pyarrow, which is not installed", "pip install 'batchyard[parquet]'"
        ) from error
    return pyarrow, pyarrow.parquet


def _column(given: Sequence[str], names: Sequence[str], where: str) -> str:
    found = next((name for name in names if name in given), None)
    if found is None:
        cause = f"{where} has the columns {', '.join(given)}; expected one called {' or '.join(names)}"
        raise DataError(cause, "rename the column")
    return found


def _class_names(metadata: dict[bytes, bytes], label: str) -> list[str] | None:
    """Names that Hugging Face datasets write into the schema: info.features.LABEL.names."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    return [str(name) for name in names]


def _content(value: Any, where: str, column: str) -> bytes:
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        cause = f"{where}: column {column} holds {type(content).__name__}; expected encoded images as bytes"
        raise DataError(cause, "embed the images in the file")
    return content


def _label(value: Any, where: str, column: str) -> int | str:
    if isinstance(value, int | str) and not isinstance(value, bool):
        return value
    cause = f"{where}: column {column} holds {value!r}; expected whole numbers or names"
    raise DataError(cause, "give every row a label")

"""Datasets decoded once: from encoded images to bytes on disk that the next job maps into memory at once.

Each is a folder of the cache, named by a digest of what it was made from (the files' sizes and times, and every option
that counts): about.json beside the images and labels of both parts, raw. It is written whole or not at all, and two
workers of one machine never decode the same one: the second waits. Mapped pages are shared between workers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchyard.data.dataset import Dataset, Known, Split, moments
from batchyard.data.encoded import CorruptImageError, Encoded, Form, decode, form_of, in_order
from batchyard.data.errors import DataError
from batchyard.data.files import locked, replacing
from batchyard.data.options import Options
from batchyard.data.streamed import StreamedSplit, fits, has_room

VERSION = 1
"""Of the folder's layout and of the decoding: raise it and nothing decoded before is used again."""
CHUNK = 64
"""Images that a thread decodes at a time."""
MOMENTS_SAMPLES = 10_000
"""Training images, at most, that mean and standard deviation of streamed data are taken over."""
NAMED = 5
"""Corrupt images that the log names; the rest are counted."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What about.json says."""

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    train: int
    test: int
    skipped: tuple[str, ...]
    known: Known


def load(
    name: str, classes: tuple[str, ...], train: Encoded, test: Encoded, *, identity: str, options: Options
) -> Dataset:
    """The dataset, decoded now or before. `identity` changes when the source does. Raises DataError."""
    form = form_of(train, options.image_size)
    said = [VERSION, identity, asdict(form), options.on_error, options.test_share, list(classes)]
    folder = options.folder / "decoded" / hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]
    try:
        with locked(folder.with_suffix(".lock")):
            if _streams(folder, (train, test), form, options):
                return _streamed(folder, name, classes, (train, test), form, options)
            if not folder.is_dir():
                options.log(f"dataset {name}: decoding {len(train) + len(test):,} images into {options.folder}")
                with replacing(folder) as partial:
                    _store(partial, name, classes, (train, test), form, options)
        dataset, stored = _read(folder, name)
    except OSError as error:
        cause = f"the cache folder {options.folder} cannot be used: {error.strerror or error}"
        raise DataError(cause, "make room in it, or name another one in BATCHYARD_CACHE") from error
    if stored.skipped:
        first = "; ".join(stored.skipped[:NAMED])
        count = "1 corrupt image" if len(stored.skipped) == 1 else f"{len(stored.skipped)} corrupt images"
        options.note(f"dataset {name}: {count} left out: {first}")
    return dataset


def _streams(folder: Path, parts: Sequence[Encoded], form: Form, options: Options) -> bool:
    if options.cache != "auto":
        return options.cache == "stream"
    size = sum(len(part) for part in parts) * math.prod(form.shape)
    return not fits(size, options.most_bytes) or not (folder.is_dir() or has_room(size, options.folder))


def _streamed(
    folder: Path, name: str, classes: tuple[str, ...], parts: tuple[Encoded, Encoded], form: Form, options: Options
) -> Dataset:
    """The dataset, not decoded. Its digest is that of names, labels and what identifies the source; its mean and
    standard deviation are those of a part of the training images, worked out once.
    """
    size = sum(len(part) for part in parts) * math.prod(form.shape)
    options.note(f"dataset {name}: streamed; decoded it would take {size / 2**30:.1f} GiB")
    train, test = (StreamedSplit(part, form, options.on_error, options.log) for part in parts)
    path = folder.with_suffix(".streamed.json")
    if not path.is_file():
        found = moments(name, train.spread(MOMENTS_SAMPLES))
        digest = hashlib.sha256(folder.name.encode())
        for part in parts:
            digest.update(part.labels.astype("<i8").tobytes())
        mean, std = (tuple(each[place] for each in found) for place in (0, 1))
        with replacing(path) as partial:
            partial.write_text(json.dumps(asdict(Known(sha256=digest.hexdigest(), mean=mean, std=std))))
    known = Known(**json.loads(path.read_text(), object_hook=_with_tuples))
    return Dataset(name=name, train=train, test=test, classes=classes, known=known)


def _store(
    folder: Path, name: str, classes: tuple[str, ...], parts: Sequence[Encoded], form: Form, options: Options
) -> None:
    folder.mkdir(parents=True)
    skipped: list[str] = []
    counts = []
    with ThreadPoolExecutor(options.threads) as pool:
        for part, encoded in zip(("train", "test"), parts, strict=True):
            labels = []
            with (folder / f"{part}.images").open("wb") as file:
                for images, kept in _decoded(pool, encoded, form, options, skipped):
                    file.write(images.data)
                    labels.append(encoded.labels[kept])
            found = np.concatenate(labels)
            (folder / f"{part}.labels").write_bytes(found.astype("<i8").tobytes())
            counts.append(len(found))
    train, test = (_map(folder, part, count, form.shape) for part, count in zip(("train", "test"), counts, strict=True))
    dataset = Dataset(name=name, train=train, test=test, classes=classes)
    known = Known(sha256=dataset.sha256, mean=dataset.mean, std=dataset.std)
    stored = Stored(
        classes=classes, shape=form.shape, train=counts[0], test=counts[1], skipped=tuple(skipped), known=known
    )
    (folder / "about.json").write_text(json.dumps(asdict(stored)))


def _decoded(
    pool: ThreadPoolExecutor, encoded: Encoded, form: Form, options: Options, skipped: list[str]
) -> Iterator[tuple[NDArray[np.uint8], list[int]]]:
    """Images [n, ...] and which samples they are, chunk by chunk; a corrupt one is left out, or ends it."""

    def chunk(start: int) -> tuple[NDArray[np.uint8], list[int], list[CorruptImageError]]:
        images, kept, errors = [], [], []
        for index in range(start, min(start + CHUNK, len(encoded))):
            try:
                images.append(decode(encoded.read(index), encoded.names[index], form))
                kept.append(index)
            except CorruptImageError as error:
                errors.append(error)
        return np.stack(images) if images else np.empty((0, *form.shape), np.uint8), kept, errors

    for images, kept, errors in in_order(pool, chunk, range(0, len(encoded), CHUNK), 4 * options.threads):
        if errors and options.on_error == "fail":
            raise errors[0]
        skipped += [error.cause for error in errors]
        yield images, kept


def _read(folder: Path, name: str) -> tuple[Dataset, Stored]:
    about = json.loads((folder / "about.json").read_text(), object_hook=_with_tuples)
    stored = Stored(**{**about, "known": Known(**about["known"])})
    train, test = (_map(folder, part, about[part], stored.shape) for part in ("train", "test"))
    return Dataset(name=name, train=train, test=test, classes=stored.classes, known=stored.known), stored


def _with_tuples(mapping: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in mapping.items()}


def _map(folder: Path, part: str, count: int, shape: tuple[int, ...]) -> Split:
    """A part, mapped: pages are read when they are used, and shared with whoever else maps them."""
    labels = np.frombuffer((folder / f"{part}.labels").read_bytes(), "<i8").astype(np.int64)
    if count == 0:
        return Split(images=np.empty((0, *shape), np.uint8), labels=labels)
    images = np.memmap(folder / f"{part}.images", np.uint8, mode="c", shape=(count, *shape))
    return Split(images=images, labels=labels)

"""CIFAR-10 and CIFAR-100: 50,000 + 10,000 colour images, 32x32.

Read from the published binary version (www.cs.toronto.edu/~kriz/cifar.html), packed or unpacked: rows of one label byte
(CIFAR-100: a coarse and a fine one, of which the fine one counts) and 3,072 pixels, red, green and blue planes. The
version for Python is a pickle and is never read. CIFAR-10 may also be a folder, zip or tar of image files,
train/CLASS/FILE and test/CLASS/FILE.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from batchyard.data import fetch
from batchyard.data.dataset import Dataset, Split
from batchyard.data.errors import DataError
from batchyard.data.options import Options
from batchyard.data.places import Search, find

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""CIFAR-10's, in the order of their labels, which is also that of the alphabet."""
SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
AGAIN = "get the file again, or remove it"
IMAGES = ("cifar10.zip", "cifar10-jpeg.zip", "cifar10.tar", "cifar10.tar.gz")
"""Archives of image files that count as CIFAR-10."""


@dataclass(frozen=True, kw_only=True)
class Binary:
    """A published binary version."""

    archive: str
    folder: str
    """Inside the archive."""
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int
    names: str
    """The file with the names of the classes, one in a line."""

    @property
    def files(self) -> tuple[str, ...]:
        """All files that are read."""
        return (*self.train, *self.test, self.names)


CIFAR10 = Binary(
    archive="cifar-10-binary.tar.gz",
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test=("test_batch.bin",),
    label_bytes=1,
    names="batches.meta.txt",
)
CIFAR100 = Binary(
    archive="cifar-100-binary.tar.gz",
    folder="cifar-100-binary",
    train=("train.bin",),
    test=("test.bin",),
    label_bytes=2,
    names="fine_label_names.txt",
)


def load(folders: Sequence[str], options: Options) -> Dataset:
    """CIFAR-10 from the first of `folders` that has it. Raises DataError."""
    wanted = f"{CIFAR10.archive}, the folder {CIFAR10.folder}, {IMAGES[0]} or {IMAGES[1]}"
    search = Search(dataset="cifar10", places=("", "cifar10"), wanted=wanted, published=fetch.CIFAR10)
    path, _ = find(search, folders, options, lambda place: _look(place, CIFAR10) or _look_for_images(place))
    if path.name in (CIFAR10.archive, CIFAR10.folder):
        return _load("cifar10", path, CIFAR10)
    from batchyard.data.image_folder import load_images  # here: it brings Pillow and fsspec, a third of a second
    from batchyard.data.location import Location

    dataset = load_images("cifar10", Location(path.absolute().as_uri()), options)
    if dataset.classes != CLASSES:
        found = ", ".join(dataset.classes)
        cause = f"dataset cifar10: {path} has the classes {found}; expected {', '.join(CLASSES)}"
        raise DataError(cause, "name the file by its URI in data.dataset instead")
    return dataset


def load_100(folders: Sequence[str], options: Options) -> Dataset:
    """CIFAR-100, fine labels, from the first of `folders` that has it. Raises DataError."""
    wanted = f"{CIFAR100.archive} or the folder {CIFAR100.folder}"
    search = Search(dataset="cifar100", places=("", "cifar100"), wanted=wanted, published=fetch.CIFAR100)
    path, _ = find(search, folders, options, lambda place: _look(place, CIFAR100))
    return _load("cifar100", path, CIFAR100)


def _look(place: Path, binary: Binary) -> Path | None:
    if (folder := place / binary.folder).is_dir():
        return folder
    return path if (path := place / binary.archive).is_file() else None


def _look_for_images(place: Path) -> Path | None:
    """An archive of image files, or `place` itself where it has train/airplane."""
    archive = next((path for name in IMAGES if (path := place / name).is_file()), None)
    return archive or (place if (place / "train" / CLASSES[0]).is_dir() else None)


def _load(name: str, path: Path, binary: Binary) -> Dataset:
    contents = _unpacked(path, binary) if path.is_dir() else _packed(path, binary)
    classes = tuple(line for line in contents(binary.names).decode().split() if line)
    train, test = (_split(path, contents, files, binary.label_bytes) for files in (binary.train, binary.test))
    return Dataset(name=name, train=train, test=test, classes=classes)


def _unpacked(folder: Path, binary: Binary) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        try:
            return (folder / name).read_bytes()
        except OSError as error:
            cause = f"{folder / name} cannot be read: {error.strerror}"
            raise DataError(cause, f"unpack {binary.archive} again") from error

    return read


def _packed(path: Path, binary: Binary) -> Callable[[str], bytes]:
    """All files in one pass: a compressed archive can only be read from its start."""
    contents = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if (name := Path(member.name).name) in binary.files and (file := archive.extractfile(member)):
                    contents[name] = file.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path} is damaged: {error}", AGAIN) from error
    if missing := [name for name in binary.files if name not in contents]:
        raise DataError(f"{path}: {', '.join(missing)} not found inside", AGAIN)
    return contents.__getitem__


def _split(path: Path, contents: Callable[[str], bytes], files: tuple[str, ...], label_bytes: int) -> Split:
    rows = np.concatenate([_rows(path, name, contents(name), label_bytes + PIXELS) for name in files])
    images = np.ascontiguousarray(rows[:, label_bytes:]).reshape(-1, *SHAPE)
    return Split(images=images, labels=rows[:, label_bytes - 1].astype(np.int64))


def _rows(path: Path, name: str, content: bytes, row: int) -> NDArray[np.uint8]:
    if not content or len(content) % row:
        raise DataError(f"{path}: {name} has {len(content)} bytes; expected rows of {row}", AGAIN)
    return np.frombuffer(content, np.uint8).reshape(-1, row)

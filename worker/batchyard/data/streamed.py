"""A part of a dataset that is decoded while it is used: for data that is larger than memory."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from batchyard.data.dataset import Split
from batchyard.data.encoded import CorruptImageError, Encoded, Form, decode
from batchyard.data.errors import DataError

MOST_SHARE = 0.5
"""Of the memory that decoded data may take before it is streamed."""
MOST_CORRUPT = 100
"""Corrupt images in a row after which skipping gives up."""


class StreamedSplit(Split):
    """See Split. `images` decodes everything at once and is for small parts; `read` is what training uses.

    With on_error skip, a corrupt image's place is taken by the next sample that can be decoded: the number of samples,
    and so the order, are settled before any image has been looked at.
    """

    def __init__(self, encoded: Encoded, form: Form, on_error: str, log: Callable[[str], None]) -> None:
        object.__setattr__(self, "labels", encoded.labels)  # a frozen dataclass, whose images are made on demand
        object.__setattr__(self, "_encoded", encoded)
        object.__setattr__(self, "_form", form)
        object.__setattr__(self, "_replacements", _Replacements(on_error, log))

    _encoded: Encoded
    _form: Form
    _replacements: _Replacements

    @property
    def images(self) -> NDArray[np.uint8]:
        """All of them, decoded now."""
        return self.read(np.arange(len(self)))[0]

    @property
    def count(self) -> int:
        """See Split."""
        return len(self._encoded)

    @property
    def shape(self) -> tuple[int, ...]:
        """See Split."""
        return self._form.shape

    def read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """See Split; thread-safe. Raises CorruptImageError, or with on_error skip DataError when there are too many."""
        images = np.empty((len(indices), *self._form.shape), np.uint8)
        labels = np.empty(len(indices), np.int64)
        for place, index in enumerate(indices.tolist()):
            images[place], labels[place] = self._sample(index)
        return images, labels

    def _sample(self, index: int) -> tuple[NDArray[np.uint8], int]:
        for candidate in range(index, index + MOST_CORRUPT):
            actual = candidate % len(self)
            try:
                image = decode(self._encoded.read(actual), self._encoded.names[actual], self._form)
            except CorruptImageError as error:
                self._replacements.note(actual, error)
            else:
                return image, int(self.labels[actual])
        cause = f"{self._encoded.names[index]} and the {MOST_CORRUPT - 1} images after it cannot be decoded"
        raise DataError(cause, "check the data: nothing is left to take their places")


class _Replacements:
    """Which images were corrupt, each told once; thread-safe."""

    def __init__(self, on_error: str, log: Callable[[str], None]) -> None:
        self._on_error, self._log = on_error, log
        self._lock, self._seen = threading.Lock(), set[int]()

    def note(self, index: int, error: CorruptImageError) -> None:
        """Raises `error` unless such are skipped."""
        if self._on_error == "fail":
            raise error
        with self._lock:
            if index in self._seen:
                return
            self._seen.add(index)
            number = len(self._seen)
        self._log(f"corrupt image number {number} left out: {error.cause}")


def fits(size: int, most: int | None) -> bool:
    """Whether `size` bytes of decoded images are to be held: at most `most`, if given, else half of the memory.

    All of the memory counts, used or not: mapped pages make room when others need it, and the workers of a machine must
    come to the same answer.
    """
    return size <= (most if most is not None else int(_memory() * MOST_SHARE))


def has_room(size: int, folder: Path) -> bool:
    """Whether the disk that holds `folder` has room for `size` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    return size <= shutil.disk_usage(folder).free


def _memory() -> int:
    """Bytes: of the machine, or of this process's control group where that allows less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        allowed = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return machine
    return min(machine, int(allowed)) if allowed.isdigit() else machine

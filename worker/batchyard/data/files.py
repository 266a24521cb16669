"""Files that several processes share: written whole or not at all, by one process at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits for, and holds, the lock file at `path`; the kernel frees it when the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, for a file or a folder; it becomes `path` when the block ends well.

    What was written is on disk before the rename, so that a crash leaves the whole of it or nothing.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield partial
        for written in [partial, *(partial.iterdir() if partial.is_dir() else ())]:
            _sync(written)
        partial.rename(path)
        _sync(path.parent)
    except BaseException:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)
        raise


class RandomReader:
    """A file read at random, from several threads at once. Closed when nothing refers to it any more."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._handle)

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`, or fewer where the file ends."""
        return os.pread(self._handle, size, offset)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

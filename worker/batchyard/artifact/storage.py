"""A folder of storage at an fsspec URI: a local disk, S3, or another store that fsspec knows.

What the stores raise differs: some of it is no OSError, and little of it says what to do. Here all of it is an OSError;
of a store that is not a local disk it is FileNotFoundError for what is not there, and StorageError for the rest.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

EXTRAS = {"s3": "batchyard[s3]", "s3a": "batchyard[s3]"}
"""Protocol to the extra that brings its package."""
NO_BUCKET = "bucket does not exist"
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "NoRegionError")
"""Of botocore, which cannot be imported here: a store that nobody uses is not installed."""
SETTINGS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, for the service and its workers, or give the "
    "machines a role"
)


class StorageError(OSError):
    """A store cannot be used; says where, why, and what to do."""

    def __init__(self, text: str, *, passing: bool = False) -> None:
        super().__init__(text)
        self.passing = passing
        """Whether it may work again by itself: the store is out of reach or busy."""


class Folder:
    """A folder, which need not exist: nothing is touched before a method is called. Listings are never cached, because
    other processes write. Every method raises OSError.
    """

    def __init__(self, uri: str) -> None:
        """Raises StorageError for a URI that cannot be used or a package that is missing."""
        self.uri = uri.rstrip("/")
        protocol = uri.partition("://")[0]
        self._files: Any
        try:
            self._files, path = fsspec.core.url_to_fs(self.uri, use_listings_cache=False)
        except ImportError as error:
            needed = f"pip install '{EXTRAS[protocol]}'" if protocol in EXTRAS else str(error)
            raise StorageError(f"{uri}: the package for {protocol}:// is not installed: {needed}") from error
        except ValueError as error:
            raise StorageError(f"{uri} cannot be opened: {error}") from error
        self._path = str(path).rstrip("/")

    @property
    def local(self) -> Path | None:
        """Where it is on this machine's own disks; None elsewhere."""
        return Path(self._path) if isinstance(self._files, LocalFileSystem) else None

    def below(self, name: str) -> Folder:
        """The folder `name` inside it."""
        return Folder(f"{self.uri}/{name}")

    def exists(self, name: str = "") -> bool:
        """Whether it, or what is called `name` inside it, is there."""
        with self._said(name):
            return bool(self._files.exists(self._at(name)))

    def names(self) -> list[str]:
        """What lies in it; nothing where there is no such folder."""
        with self._said():
            self._files.invalidate_cache()
            found = self._files.ls(self._path, detail=False) if self._files.exists(self._path) else []
        return [str(each).rstrip("/").rpartition("/")[2] for each in found]

    def read(self, name: str) -> bytes:
        """A file's content."""
        with self._said(name):
            return bytes(self._files.cat_file(self._at(name)))

    def download(self, name: str, to: Path) -> None:
        """Copies a file to a local path."""
        with self._said(name):
            self._files.get_file(self._at(name), str(to))

    def write(self, name: str, content: bytes) -> None:
        """Writes a file whole; an object store shows it whole or not at all."""
        with self._said(name, writing=True):
            self._files.pipe_file(self._at(name), content)

    def remove(self, name: str = "") -> None:
        """Removes it, or what is called `name` inside it, with all that is below; nothing there is fine."""
        if self.local is not None:
            target = Path(self._at(name))
            return shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        with self._said(name):
            try:
                if self._files.exists(self._at(name)):
                    self._files.rm(self._at(name), recursive=True)
            except FileNotFoundError:
                pass  # someone else was quicker
        return None

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}" if name else self._path

    @contextmanager
    def _said(self, name: str = "", *, writing: bool = False) -> Iterator[None]:
        """Raises what a store raises as the module says."""
        try:
            yield
        except Exception as error:
            missing = isinstance(error, FileNotFoundError) and not writing and NO_BUCKET not in str(error)
            if self.local is not None or missing:
                raise
            raise self._error(error, f"{self.uri}/{name}".rstrip("/")) from error

    def _error(self, error: Exception, where: str) -> StorageError:
        bucket, kind = self._path.partition("/")[0], type(error).__name__
        if isinstance(error, FileNotFoundError):
            return StorageError(f"{where}: {error}: create the bucket {bucket!r}, or correct the URI")
        if isinstance(error, PermissionError):
            return StorageError(f"{where}: access is refused ({error}): {SETTINGS} that may read and write there")
        if kind in NO_CREDENTIALS:
            return StorageError(f"{where}: no credentials were found ({error}): {SETTINGS}")
        return StorageError(f"{where} cannot be used now: {kind}: {error}", passing=True)


def probe(uri: str) -> None:
    """Writes a small file below `uri`, reads it back and removes it. Raises OSError for what does not work."""
    folder, name = Folder(uri), f".probe-{uuid.uuid4().hex}"
    if folder.local is not None:
        folder.local.mkdir(parents=True, exist_ok=True)
    folder.write(name, b"batchyard")
    try:
        folder.read(name)
    finally:
        folder.remove(name)

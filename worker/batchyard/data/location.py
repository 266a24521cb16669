"""Files at a URI, local or remote: listed, read and told apart from other versions of themselves. fsspec underneath."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

import fsspec

from batchyard.data.errors import DataError
from batchyard.data.files import locked, replacing
from batchyard.data.options import Options

VERSION_KEYS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")
"""What file systems call the thing that changes when a file does; the first that is there counts."""
CHUNK = 1 << 22


@dataclass(frozen=True)
class Location:
    """A file or a folder. Every method raises DataError naming the URI."""

    uri: str

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        with self._said():
            filesystem, path = fsspec.core.url_to_fs(self.uri)
        return filesystem, path

    @cached_property
    def is_folder(self) -> bool:
        """Whether there are files below it. Raises DataError also where there is nothing at all."""
        filesystem, path = self._opened
        with self._said():
            if not filesystem.exists(path):
                raise DataError(f"data.dataset: {self.uri} does not exist", "correct the URI, or put the data there")
            return bool(filesystem.isdir(path))

    @cached_property
    def files(self) -> dict[str, str]:
        """Name below the folder ("" for a file) to what tells this version of it from others; sorted by name."""
        filesystem, path = self._opened
        with self._said():
            if not self.is_folder:
                return {"": _version(filesystem.info(path))}
            found = filesystem.find(path, detail=True)
        root = len(path.rstrip("/")) + 1
        return {name[root:]: _version(found[name]) for name in sorted(found)}

    @property
    def identity(self) -> str:
        """Hexadecimal digest that changes with the content, as far as the file system tells."""
        return hashlib.sha256(json.dumps([self.uri, self.files]).encode()).hexdigest()

    def read(self, name: str) -> bytes:
        """A file below the folder. May be called from several threads."""
        filesystem, path = self._opened
        with self._said(name):
            return bytes(filesystem.cat_file(posixpath.join(path, name)))

    def open(self, name: str) -> IO[bytes]:
        """A file below the folder, to be read at random."""
        filesystem, path = self._opened
        with self._said(name):
            return cast("IO[bytes]", filesystem.open(posixpath.join(path, name) if name else path, "rb"))

    def local(self, options: Options) -> Path:
        """The file on this machine's own disk: itself, or a copy in the cache, made once."""
        filesystem, path = self._opened
        if "file" in (filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,)):
            return Path(path)
        copy = options.folder / "copies" / self.identity[:32] / posixpath.basename(path)
        with locked(copy.parent / ".lock"):
            if not copy.is_file():
                options.log(f"{self.uri}: copying it into {options.folder}")
                self._copy(filesystem, path, copy)
        return copy

    def _copy(self, filesystem: Any, path: str, copy: Path) -> None:
        with (
            self._said(),
            replacing(copy) as partial,
            filesystem.open(path) as source,
            partial.open("wb") as file,
        ):
            while block := source.read(CHUNK):
                file.write(block)

    @contextmanager
    def _said(self, name: str = "") -> Iterator[None]:
        """Raises what a store raises as DataError; botocore's errors, for one, are not OSErrors."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:
            raise self._error(error, name) from error

    def _error(self, error: BaseException, name: str = "") -> DataError:
        where = f"{self.uri}/{name}" if name else self.uri
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return DataError(f"{where} cannot be read: {reason}", "correct the URI, or make it readable for the workers")


def _version(info: Mapping[str, Any]) -> str:
    version = next((info[key] for key in VERSION_KEYS if info.get(key) is not None), "")
    return f"{info.get('size')} {version}"

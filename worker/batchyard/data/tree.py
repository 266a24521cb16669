"""Files below a folder, inside a zip or inside a tar, all the same to who reads them. Nothing is unpacked to disk under
a name that an archive chose.
"""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Protocol

from batchyard.data.errors import DataError
from batchyard.data.files import RandomReader, locked, replacing
from batchyard.data.location import Location
from batchyard.data.options import Options

ZIPS = (".zip",)
TARS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
ARCHIVES = ZIPS + TARS
AGAIN = "get the archive again, or correct data.dataset"


class Tree(Protocol):
    """Files by name."""

    where: str
    """For people."""

    @property
    def names(self) -> list[str]:
        """Every file, '/' between folders, sorted."""

    def read(self, name: str) -> bytes:
        """A file's content. May be called from several threads. Raises DataError naming the file."""


def open_tree(location: Location, options: Options) -> Tree:
    """The tree at `location`, by its name's ending. A remote archive is copied into the cache first; a compressed tar
    is unpacked to a plain one there, because a compressed one can only be read from its start. Raises DataError.
    """
    if location.is_folder:
        return FolderTree(location)
    name = location.uri.lower()
    if name.endswith(ZIPS):
        return ZipTree(location.uri, location.local(options))
    if name.endswith(TARS):
        local = location.local(options)
        plain = local if name.endswith(".tar") else _plain(location, local, options)
        return TarTree(location.uri, plain)
    expected = f"a folder, or a file that ends in {', '.join(ARCHIVES)}, .npz or .parquet"
    raise DataError(f"data.dataset: {location.uri} is none of the forms known; expected {expected}", "see docs/data.md")


class FolderTree:
    """A folder, wherever it is."""

    def __init__(self, location: Location) -> None:
        self.where, self._location = location.uri, location
        self.names = list(location.files)

    def read(self, name: str) -> bytes:
        """See Tree."""
        return self._location.read(name)


class ZipTree:
    """A zip on this machine."""

    def __init__(self, where: str, path: Path) -> None:
        self.where = where
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{where} cannot be read as a zip: {error}", AGAIN) from error
        self.names = sorted(info.filename for info in self._zip.infolist() if not info.is_dir())

    def read(self, name: str) -> bytes:
        """See Tree."""
        try:
            return self._zip.read(name)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise DataError(f"{self.where}: {name} cannot be read: {error}", AGAIN) from error


class TarTree:
    """A plain tar on this machine, read at random."""

    def __init__(self, where: str, path: Path) -> None:
        self.where = where
        try:
            with tarfile.open(path, "r:") as archive:
                self._places = {each.name: (each.offset_data, each.size) for each in archive if each.isfile()}
            self._reader = RandomReader(path)
        except (tarfile.TarError, OSError) as error:
            raise DataError(f"{where} cannot be read as a tar: {error}", AGAIN) from error
        self.names = sorted(self._places)

    def read(self, name: str) -> bytes:
        """See Tree."""
        offset, size = self._places[name]
        content = self._reader.read(offset, size)
        if len(content) < size:
            raise DataError(f"{self.where}: {name} is truncated: {len(content)} of {size} bytes", AGAIN)
        return content


def _plain(location: Location, compressed: Path, options: Options) -> Path:
    """The tar inside a compressed one, unpacked into the cache once."""
    path = options.folder / "copies" / location.identity[:32] / "plain.tar"
    with locked(path.parent / ".lock"):
        if not path.is_file():
            options.log(f"{location.uri}: unpacking it into {options.folder}")
            _unpack(location.uri, compressed, path)
    return path


def _unpack(where: str, compressed: Path, path: Path) -> None:
    try:
        with (
            replacing(path) as partial,
            tarfile.open(compressed) as source,
            tarfile.open(partial, "w:", format=tarfile.PAX_FORMAT) as target,
        ):
            for member in source:
                if member.isfile():
                    target.addfile(member, source.extractfile(member))
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{where} is damaged: {error}", AGAIN) from error

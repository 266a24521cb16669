"""Files of versions on their way out of and into the service, in chunks, each checked against its digest."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from batchyard.client import errors
from batchyard.v1.exchange_pb2 import (
    ExportModelVersionRequest,
    ExportModelVersionResponse,
    FileHeader,
    ImportModelVersionRequest,
    ImportSpec,
)

CHUNK = 1 << 20
"""Bytes in one message."""
FORMATS = {
    "onnx": ExportModelVersionRequest.ONNX,
    "torch-export": ExportModelVersionRequest.TORCH_EXPORT,
    "triton": ExportModelVersionRequest.TRITON,
    "triton-python": ExportModelVersionRequest.TRITON_PYTHON,
}
PathLike = str | os.PathLike[str]


def export_request(name: str, file_format: str) -> ExportModelVersionRequest:
    """Raises ValueError for an unknown format."""
    if file_format not in FORMATS:
        raise ValueError(f"file_format: {file_format!r} given; expected one of {', '.join(FORMATS)}")
    return ExportModelVersionRequest(name=name, format=FORMATS[file_format])


class Download:
    """A folder that fills file by file."""

    def __init__(self, target: Path, partial: Path) -> None:
        self._target, self._partial = target, partial
        self._paths: list[PurePosixPath] = []
        self._header = FileHeader()

    def take(self, response: ExportModelVersionResponse) -> None:
        """Writes what one message brings. Raises TransferError where the file before it is not what was told of it."""
        if response.WhichOneof("part") == "chunk":
            with (self._partial / self._paths[-1]).open("ab") as file:
                file.write(response.chunk)
            return
        self._check_last()
        self._header = response.file
        self._paths.append(_safe(self._header.path))
        path = self._partial / self._paths[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def finish(self) -> list[Path]:
        """Puts the folder in its place; the files' paths there. Raises TransferError as `take` does."""
        self._check_last()
        self._partial.replace(self._target)
        return [self._target / path for path in self._paths]

    def _check_last(self) -> None:
        if not self._paths:
            return
        found, told = header(self._header.path, self._partial / self._paths[-1]), self._header
        if (found.size, found.sha256) != (told.size, told.sha256):
            digests = f"{found.size} bytes, sha256 {found.sha256}; expected {told.size} bytes, {told.sha256}"
            raise errors.TransferError(f"{told.path}: damaged on its way: {digests}", hint="Export it again.")


@contextmanager
def downloading(out: PathLike) -> Iterator[Download]:
    """A download into `out`, which does not exist yet or is empty; it is there whole or not at all.

    Raises TransferError where it cannot be written.
    """
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise errors.TransferError(f"{target}: exists already", hint="Name a folder that does not exist yet.")
    partial = target.absolute().with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        partial.mkdir(parents=True)
        yield Download(target, partial)
    except OSError as error:
        text = f"{target}: cannot be written: {error.strerror}"
        raise errors.TransferError(text, hint="Make room, or name another folder.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def upload(spec: ImportSpec, files: Mapping[str, PathLike | None]) -> Iterator[ImportModelVersionRequest]:
    """The messages of an import: `spec`, then those of `files` (name to path) that are given.

    Raises TransferError, before the first message, for a file that cannot be read.
    """
    found = {name: Path(path) for name, path in files.items() if path is not None}
    headers = {name: header(name, path) for name, path in found.items()}
    return _upload(spec, found, headers)


def header(name: str, path: Path) -> FileHeader:
    """What is told of a file before its contents. Raises TransferError."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return FileHeader(path=name, size=file.tell(), sha256=digest)
    except OSError as error:
        raise errors.TransferError(f"{path}: {error.strerror}", hint="Name a file that exists.") from error


def _safe(given: str) -> PurePosixPath:
    """A path that stays below its folder. Raises TransferError."""
    path = PurePosixPath(given)
    if not given or path.is_absolute() or ".." in path.parts or "\\" in given:
        raise errors.TransferError(f"the service sends a file named {given!r}", hint="Do not trust this service.")
    return path


def _upload(
    spec: ImportSpec, files: Mapping[str, Path], headers: Mapping[str, FileHeader]
) -> Iterator[ImportModelVersionRequest]:
    yield ImportModelVersionRequest(spec=spec)
    for name, path in files.items():
        yield ImportModelVersionRequest(file=headers[name])
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield ImportModelVersionRequest(chunk=chunk)

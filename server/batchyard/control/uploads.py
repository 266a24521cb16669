"""Files that arrive in chunks: bounded, on disk, checked against their digests. Raises the domain's errors."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from pathlib import Path

from batchyard.endpoint.errors import DeadlineError, FieldViolation, InvalidInputError

MOST_BYTES = 4 << 30
"""All files of one upload together."""
STALL_SECONDS = 60.0
"""A caller that sends nothing for so long has gone, and others want its place."""
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class FileHeader:
    """What comes before a file's chunks."""

    name: str
    size: int
    sha256: str


async def receive(parts: AsyncIterator[FileHeader | bytes], folder: Path, legal: Collection[str]) -> dict[str, str]:
    """Writes every file of an upload into `folder`; returns their names, each one of `legal`, with their sha256.

    Raises InvalidInputError for a file that is unknown, given twice, too large, cut short or damaged.
    """
    digests: dict[str, str] = {}
    total = 0
    current: _Incoming | None = None
    while (part := await _next(parts)) is not None:
        if isinstance(part, bytes):
            if current is None:
                raise _violation("chunk", "a chunk came before any file; send the file's header first")
            await asyncio.to_thread(current.take, part)
            continue
        if current is not None:
            current.finish()
        _check(part, digests, legal)
        total += part.size
        if total > MOST_BYTES:
            raise _violation("file.size", f"{total} bytes in all; expected at most {MOST_BYTES}")
        current = _Incoming(part, folder)
        digests[part.name] = part.sha256
    if current is not None:
        current.finish()
    return digests


async def _next(parts: AsyncIterator[FileHeader | bytes]) -> FileHeader | bytes | None:
    """The next part; None after the last. Raises DeadlineError for a caller that sends no more."""
    try:
        async with asyncio.timeout(STALL_SECONDS):
            return await anext(parts, None)
    except TimeoutError:
        text = f"nothing arrived for {STALL_SECONDS:g} s: send the files again"
        raise DeadlineError(text, reason="UPLOAD_STALLED") from None


class _Incoming:
    """One file while it arrives. No descriptor is kept: a caller may go away at any chunk."""

    def __init__(self, header: FileHeader, folder: Path) -> None:
        self._header = header
        self._path = folder / header.name
        self._digest = hashlib.sha256()
        self._size = 0
        self._path.touch()

    def take(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size > self._header.size:
            raise _violation(self._header.name, f"more than the {self._header.size} bytes that its header tells")
        self._digest.update(chunk)
        with self._path.open("ab") as file:
            file.write(chunk)

    def finish(self) -> None:
        name, expected = self._header.name, self._header
        if self._size != expected.size:
            raise _violation(name, f"{self._size} bytes arrived; its header tells {expected.size}: send it again")
        if self._digest.hexdigest() != expected.sha256:
            digests = f"its sha256 is {self._digest.hexdigest()}, its header tells {expected.sha256}"
            raise _violation(name, f"damaged on its way: {digests}; send it again")


def _check(header: FileHeader, names: Collection[str], legal: Collection[str]) -> None:
    if header.name not in legal:
        raise _violation("file.path", f"{header.name[:80]!r} given; expected one of {', '.join(sorted(legal))}")
    if header.name in names:
        raise _violation("file.path", f"{header.name!r} given twice; expected each file once")
    if header.size < 1 or not SHA256.fullmatch(header.sha256):
        raise _violation("file", f"{header.name}: expected its size, above 0, and its sha256 in hexadecimal")


def _violation(field: str, description: str) -> InvalidInputError:
    return InvalidInputError([FieldViolation(field, description)])

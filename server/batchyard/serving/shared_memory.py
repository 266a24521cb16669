"""Regions of this machine's shared memory that clients have registered: inputs are read from them, outputs written.

They are read and written through their files and never mapped. A client that shrinks a region which we had mapped would
end this process with SIGBUS, and one that changes it while a request is under way would change what was checked. The
copy that it costs is the one that a message's bytes would have cost.

Protocol: Triton's "system shared memory" extension.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchyard.endpoint.errors import (
    AlreadyExistsError,
    FieldViolation,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
)
from batchyard.oip.messages import InferParameter
from batchyard.serving.shown import shown

FOLDER = Path("/dev/shm")
"""Where Linux keeps what shm_open names."""
REGION, SIZE, OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"
"""Parameters of a tensor."""
MOST_REGIONS = 256
"""Each holds a file open."""
LONGEST_NAME = 255


class Span(NamedTuple):
    """Where one tensor lies: bytes of a registered region."""

    region: str
    offset: int
    byte_size: int


@dataclass(frozen=True, kw_only=True)
class Region:
    """A part of a shared memory object, under the name that requests use."""

    name: str
    key: str
    offset: int
    """Bytes from the object's beginning."""
    byte_size: int
    file: int
    """Its file descriptor."""


class SharedMemory:
    """The registered regions. Belongs to the event loop; so nothing closes a file that is being read."""

    def __init__(self, allowed: str, folder: Path = FOLDER) -> None:
        """`allowed`: the keys that may be registered, as a shell pattern; empty: none.

        A caller over the network does not prove that it owns a region, or that it is on this machine at all.
        """
        self._allowed = allowed
        self._folder = folder
        self._regions: dict[str, Region] = {}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Lets requests name a region.

        Raises ForbiddenError for a key that the operator does not allow, AlreadyExistsError for a name that is taken,
        NotFoundError for an object that does not exist, InvalidInputError for bounds beyond it.
        """
        plain = self._check(name, key, byte_size)
        file = self._open(plain)
        try:
            held = os.fstat(file)
            if not stat.S_ISREG(held.st_mode):
                raise _invalid("key", f"{shown(key)} is no shared memory object")
            if offset + byte_size > held.st_size:
                problem = f"bytes {offset} to {offset + byte_size} asked for; {shown(key)} has {held.st_size}"
                raise _invalid("byte_size", problem)
        except BaseException:
            os.close(file)
            raise
        self._regions[name] = Region(name=name, key=key, offset=offset, byte_size=byte_size, file=file)

    def unregister(self, name: str) -> None:
        """Forgets a region, or all of them for ""; one that is not known is forgotten already, as in Triton."""
        for known in [name] if name else list(self._regions):
            region = self._regions.pop(known, None)
            if region is not None:
                os.close(region.file)

    def regions(self, name: str = "") -> list[Region]:
        """One region, or all of them for "". Raises NotFoundError."""
        return [self._region(name)] if name else list(self._regions.values())

    def read(self, span: Span) -> NDArray[np.uint8]:
        """The span's bytes, copied. Raises NotFoundError and InvalidInputError."""
        region = self.check(span)
        data = np.empty(span.byte_size, np.uint8)
        if os.preadv(region.file, [data.data], region.offset + span.offset) < span.byte_size:
            raise _shrunk(region)
        return data

    def write(self, span: Span, data: bytes, what: str) -> None:
        """Puts `data` at the beginning of the span. `what` is for messages. Raises what read does."""
        region = self.check(span)
        if len(data) > span.byte_size:
            raise _invalid(SIZE, f"{what} has {len(data)} bytes; the request gives it {span.byte_size}")
        at = region.offset + span.offset
        if os.fstat(region.file).st_size < at + len(data):  # writing would make it grow
            raise _shrunk(region)
        os.pwrite(region.file, data, at)

    def check(self, span: Span) -> Region:
        """The span's region. Raises NotFoundError for one that is not registered, InvalidInputError for bounds."""
        region = self._region(span.region)
        if span.offset + span.byte_size > region.byte_size:
            problem = f"bytes {span.offset} to {span.offset + span.byte_size}; region {shown(region.name)} has"
            raise _invalid(OFFSET, f"{problem} {region.byte_size}")
        return region

    def _region(self, name: str) -> Region:
        region = self._regions.get(name)
        if region is None:
            known = ", ".join(shown(known) for known in list(self._regions)[:10]) or "none"
            problem = f"no shared memory region {shown(name)} is registered; registered: {known}"
            raise NotFoundError(problem, reason="REGION_NOT_FOUND")
        return region

    def _check(self, name: str, key: str, byte_size: int) -> str:
        """The key as a file's name. Raises for everything that can be seen without opening it."""
        plain = key.lstrip("/")  # as shm_open does
        if not self._allowed or not fnmatchcase(plain, self._allowed):
            allowed = f"allowed: {self._allowed}" if self._allowed else "none is allowed"
            raise ForbiddenError(
                f"shared memory {shown(key)} may not be registered here ({allowed}); "
                f"its operator can start the inference plane with --shared-memory PATTERN",
                reason="SHARED_MEMORY_FORBIDDEN",
            )
        if not name or len(name) > LONGEST_NAME:
            raise _invalid("name", f"got {len(name)} characters; expected 1 to {LONGEST_NAME}")
        if not plain or plain in (".", "..") or len(plain.encode()) > LONGEST_NAME or {"/", "\0"} & set(plain):
            raise _invalid("key", f"got {shown(key)}; expected the name of a shared memory object, without a folder")
        if byte_size < 1:
            raise _invalid("byte_size", "got 0; expected at least 1")
        if name in self._regions:
            raise AlreadyExistsError(
                f"a shared memory region {shown(name)} is registered already; unregister it first",
                reason="REGION_EXISTS",
            )
        if len(self._regions) >= MOST_REGIONS:
            problem = f"{MOST_REGIONS} shared memory regions are registered, the most there may be; unregister some"
            raise PreconditionError(problem, reason="TOO_MANY_REGIONS")
        return plain

    def _open(self, plain: str) -> int:
        try:
            # Not through a link to another file; and a pipe of that name must not block us.
            flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            return os.open(self._folder / plain, flags)
        except FileNotFoundError:
            problem = f"no shared memory object {shown(plain)} on the inference plane's machine"
            raise NotFoundError(problem, reason="SHARED_MEMORY_NOT_FOUND") from None
        except OSError as error:
            problem = f"shared memory object {shown(plain)} cannot be opened: {error.strerror}"
            raise ForbiddenError(problem, reason="SHARED_MEMORY_NOT_OURS") from error


def span_of(parameters: Mapping[str, InferParameter], model: str, tensor: str) -> Span:
    """Where a tensor with the parameter `shared_memory_region` lies. `model` and `tensor`, "inputs['x']", are for
    messages. Raises InvalidInputError naming them and the parameter.
    """

    def wrong(name: str, expected: str) -> InvalidInputError:
        return _invalid(f"{tensor}.parameters[{name}]", f"model {model}: expected {expected}")

    def number(name: str) -> int:
        given = parameters[name] if name in parameters else InferParameter()
        if given.WhichOneof("parameter_choice") != "int64_param" or given.int64_param < 0:
            raise wrong(name, "int64_param, bytes, 0 or more")
        return int(given.int64_param)

    if parameters[REGION].WhichOneof("parameter_choice") != "string_param":
        raise wrong(REGION, "string_param, the name of a registered region")
    return Span(parameters[REGION].string_param, number(OFFSET) if OFFSET in parameters else 0, number(SIZE))


def note_span(parameters: MutableMapping[str, InferParameter], span: Span) -> None:
    """Tells in an output's parameters where it was written."""
    parameters[REGION].string_param = span.region
    parameters[SIZE].int64_param = span.byte_size
    if span.offset:
        parameters[OFFSET].int64_param = span.offset


def _invalid(field: str, problem: str) -> InvalidInputError:
    return InvalidInputError([FieldViolation(field, problem)], reason="INVALID_SHARED_MEMORY")


def _shrunk(region: Region) -> InvalidInputError:
    return _invalid(REGION, f"the memory behind region {shown(region.name)} is smaller than when it was registered")

"""Uploads, as an import and a recalibration send them: a stream of messages to what the domain takes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

from batchyard.control.uploads import FileHeader
from batchyard.endpoint.errors import FieldViolation, InvalidInputError
from batchyard.v1.exchange_pb2 import ImportModelVersionRequest, ImportSpec
from batchyard.v1.recalibration_pb2 import RecalibrateModelRequest, RecalibrationSpec

_Request = TypeVar("_Request", ImportModelVersionRequest, RecalibrateModelRequest)


async def import_spec(requests: AsyncIterator[ImportModelVersionRequest]) -> ImportSpec:
    """What the first message of an import says. Raises InvalidInputError."""
    return (await _first(requests)).spec


async def recalibration_spec(requests: AsyncIterator[RecalibrateModelRequest]) -> RecalibrationSpec:
    """What the first message of a recalibration says. Raises InvalidInputError."""
    return (await _first(requests)).spec


async def _first(requests: AsyncIterator[_Request]) -> _Request:
    async for request in requests:
        if request.WhichOneof("part") == "spec":
            return request
        break
    raise InvalidInputError([FieldViolation("spec", "missing; expected it in the first message")])


async def parts(
    requests: AsyncIterator[ImportModelVersionRequest] | AsyncIterator[RecalibrateModelRequest],
) -> AsyncIterator[FileHeader | bytes]:
    """The rest of an upload: headers and chunks. Raises InvalidInputError."""
    async for request in requests:
        kind = request.WhichOneof("part")
        if kind == "file":
            yield FileHeader(name=request.file.path, size=request.file.size, sha256=request.file.sha256)
        elif kind == "chunk":
            yield request.chunk
        else:
            raise InvalidInputError([FieldViolation("part", f"{kind or 'nothing'} given; expected a file or a chunk")])

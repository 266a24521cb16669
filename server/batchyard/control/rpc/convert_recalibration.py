"""The stream of RecalibrateModel: messages of batchyard.v1 to what the domain takes."""

from __future__ import annotations

from collections.abc import AsyncIterator

from batchyard.control.uploads import FileHeader
from batchyard.endpoint.errors import FieldViolation, InvalidInputError
from batchyard.v1.recalibration_pb2 import RecalibrateModelRequest, RecalibrationSpec


async def spec(requests: AsyncIterator[RecalibrateModelRequest]) -> RecalibrationSpec:
    """What the first message says. Raises InvalidInputError."""
    async for request in requests:
        if request.WhichOneof("part") == "spec":
            return request.spec
        break
    raise InvalidInputError([FieldViolation("spec", "missing; expected it in the first message")])


async def parts(requests: AsyncIterator[RecalibrateModelRequest]) -> AsyncIterator[FileHeader | bytes]:
    """The rest: a header and chunks. Raises InvalidInputError."""
    async for request in requests:
        kind = request.WhichOneof("part")
        if kind == "file":
            yield FileHeader(name=request.file.path, size=request.file.size, sha256=request.file.sha256)
        elif kind == "chunk":
            yield request.chunk
        else:
            raise InvalidInputError([FieldViolation("part", f"{kind or 'nothing'} given; expected a file or a chunk")])

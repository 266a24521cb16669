"""Exports: messages of batchyard.v1 to what the domain takes, and back."""

from __future__ import annotations

from batchyard.control import exchange
from batchyard.control.uploads import FileHeader
from batchyard.endpoint.errors import FieldViolation, InvalidInputError
from batchyard.v1.exchange_pb2 import ExportModelVersionRequest, ExportModelVersionResponse
from batchyard.v1.exchange_pb2 import FileHeader as FileHeaderMessage

_FORMATS: dict[ExportModelVersionRequest.Format.ValueType, str] = {
    ExportModelVersionRequest.ONNX: exchange.ONNX_FORMAT,
    ExportModelVersionRequest.TORCH_EXPORT: exchange.TORCH_FORMAT,
    ExportModelVersionRequest.TRITON: exchange.TRITON_FORMAT,
    ExportModelVersionRequest.TRITON_PYTHON: exchange.TRITON_PYTHON_FORMAT,
}


def file_format(given: ExportModelVersionRequest.Format.ValueType) -> str:
    """The domain's name of a format. Raises InvalidInputError."""
    if given not in _FORMATS:
        legal = ", ".join(ExportModelVersionRequest.Format.Name(known) for known in _FORMATS)
        raise InvalidInputError([FieldViolation("format", f"{given} given; expected one of {legal}")])
    return _FORMATS[given]


def export_response(part: FileHeader | bytes) -> ExportModelVersionResponse:
    """One message of an export's stream."""
    if isinstance(part, bytes):
        return ExportModelVersionResponse(chunk=part)
    header = FileHeaderMessage(path=part.name, size=part.size, sha256=part.sha256)
    return ExportModelVersionResponse(file=header)

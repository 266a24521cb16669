"""Versions out of and into the service: files in chunks, each checked against its digest."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import grpc

from batchyard.client import errors
from batchyard.client.calls import Caller
from batchyard.client.job_file import read_message
from batchyard.v1.exchange_pb2 import (
    CreateEnsembleRequest,
    ExportModelVersionRequest,
    FileHeader,
    ImportModelVersionRequest,
    ImportSpec,
    NetworkSpec,
)
from batchyard.v1.models_pb2 import ModelVersion
from batchyard.v1.models_pb2_grpc import ModelServiceStub

CHUNK = 1 << 20
"""Bytes in one message."""
TIMEOUT = 1800.0
"""Seconds: the service folds and certifies, and the line may be slow."""
FORMATS = {
    "onnx": ExportModelVersionRequest.ONNX,
    "torch-export": ExportModelVersionRequest.TORCH_EXPORT,
    "triton": ExportModelVersionRequest.TRITON,
    "triton-python": ExportModelVersionRequest.TRITON_PYTHON,
}
PathLike = str | os.PathLike[str]


class Exchange:
    """Calls that move files to and from one control plane. Thread-safe. None is tried again: see errors.RpcError."""

    def __init__(self, stub: ModelServiceStub, caller: Caller) -> None:
        self._stub, self._call = stub, caller

    def export(self, name: str, file_format: str, out: PathLike) -> list[Path]:
        """Writes the version `name` to the new folder `out` and returns the files' paths.

        Args:
            name: models/{model}/versions/{n} or models/{model}@{alias}.
            file_format: a key of FORMATS.
            out: a folder that does not exist yet, or is empty. It is there whole or not at all.

        Raises:
            RpcError: the service refuses, or does not answer.
            TransferError: a file arrived damaged, or cannot be written.
        """
        if file_format not in FORMATS:
            raise ValueError(f"file_format: {file_format!r} given; expected one of {', '.join(FORMATS)}")
        target = Path(out)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise errors.TransferError(f"{target}: exists already", hint="Name a folder that does not exist yet.")
        request = ExportModelVersionRequest(name=name, format=FORMATS[file_format])
        partial = target.absolute().with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            partial.mkdir(parents=True)
            paths = self._receive(request, partial)
            partial.replace(target)
        except grpc.RpcError as error:
            raise self._call.failure(error) from None
        except OSError as error:
            text = f"{target}: cannot be written: {error.strerror}"
            raise errors.TransferError(text, hint="Make room, or name another folder.") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return [target / path for path in paths]

    def import_version(
        self,
        model: str,
        *,
        weights: PathLike | None = None,
        architecture: Mapping[str, Any] | PathLike | None = None,
        onnx: PathLike | None = None,
        samples: PathLike | None = None,
        alias: str = "",
        request_id: str | None = None,
    ) -> ModelVersion:
        """Publishes a network that was trained elsewhere as a new version of `model`, folded and certified.

        Args:
            model: the model's name; it need not exist yet.
            weights: a safetensors file with a torch state_dict, and
            architecture: what it belongs to: a mapping or a YAML file with the keys model (as in a job), input and
                classes. Or
            onnx: an ONNX file with its normalisations whole; `architecture` may then name the classes.
            samples: an NPZ file with `inputs` [n, ...] to certify it on, and perhaps `labels` [n].
            alias: to point at the new version.
            request_id: a UUID; repeating the call with it makes no second version. None: a new one.

        Raises:
            AlreadyExistsError: the request_id has made a version of something else.
            RpcError: the service refuses, or does not answer.
            JobFileError: the architecture's keys or types are wrong.
            TransferError: a file cannot be read.
        """
        if (weights is None) == (onnx is None):
            raise ValueError("expected either weights, with their architecture, or onnx")
        if weights is not None and architecture is None:
            raise ValueError("weights given without architecture")
        network = NetworkSpec() if architecture is None else read_message(NetworkSpec(), architecture)
        spec = ImportSpec(model=model, alias=alias, network=network, request_id=request_id or str(uuid.uuid4()))
        files = {"weights": weights, "onnx": onnx, "samples": samples}
        found = {name: Path(path) for name, path in files.items() if path is not None}
        headers = {name: _header(name, path) for name, path in found.items()}
        parts = _upload(spec, found, headers)
        try:
            return self._stub.ImportModelVersion(parts, timeout=TIMEOUT, metadata=self._call.metadata)
        except grpc.RpcError as error:
            raise self._call.failure(error) from None

    def create_ensemble(
        self, model: str, members: Sequence[str], alias: str = "", *, request_id: str | None = None
    ) -> ModelVersion:
        """Publishes the mean of the members' softmax as a new version of `model`. Raises RpcError.

        `members`: models/{model}/versions/{n} or models/{model}@{alias}, of the same input and classes. `request_id`:
        as import_version's.
        """
        request_id = request_id or str(uuid.uuid4())
        request = CreateEnsembleRequest(model=model, members=members, alias=alias, request_id=request_id)
        try:
            return self._stub.CreateEnsemble(request, timeout=TIMEOUT, metadata=self._call.metadata)
        except grpc.RpcError as error:
            raise self._call.failure(error) from None

    def _receive(self, request: ExportModelVersionRequest, folder: Path) -> list[PurePosixPath]:
        paths: list[PurePosixPath] = []
        header = FileHeader()
        for response in self._stub.ExportModelVersion(request, timeout=TIMEOUT, metadata=self._call.metadata):
            if response.WhichOneof("part") == "file":
                if paths:
                    _check(header, folder / paths[-1])
                header = response.file
                paths.append(_safe(header.path))
                (folder / paths[-1]).parent.mkdir(parents=True, exist_ok=True)
                (folder / paths[-1]).touch()
            else:
                with (folder / paths[-1]).open("ab") as file:
                    file.write(response.chunk)
        if paths:
            _check(header, folder / paths[-1])
        return paths


def _safe(given: str) -> PurePosixPath:
    """A path that stays below its folder. Raises TransferError."""
    path = PurePosixPath(given)
    if not given or path.is_absolute() or ".." in path.parts or "\\" in given:
        raise errors.TransferError(f"the service sends a file named {given!r}", hint="Do not trust this service.")
    return path


def _check(header: FileHeader, path: Path) -> None:
    """Raises TransferError unless the file is what its header tells."""
    found = _header(header.path, path)
    if (found.size, found.sha256) != (header.size, header.sha256):
        digests = f"{found.size} bytes, sha256 {found.sha256}; expected {header.size} bytes, {header.sha256}"
        raise errors.TransferError(f"{header.path}: damaged on its way: {digests}", hint="Export it again.")


def _header(name: str, path: Path) -> FileHeader:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return FileHeader(path=name, size=file.tell(), sha256=digest)
    except OSError as error:
        raise errors.TransferError(f"{path}: {error.strerror}", hint="Name a file that exists.") from error


def _upload(
    spec: ImportSpec, files: Mapping[str, Path], headers: Mapping[str, FileHeader]
) -> Iterator[ImportModelVersionRequest]:
    yield ImportModelVersionRequest(spec=spec)
    for name, path in files.items():
        yield ImportModelVersionRequest(file=headers[name])
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield ImportModelVersionRequest(chunk=chunk)

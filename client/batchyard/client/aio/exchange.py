"""Versions out of and into the service."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio

from batchyard.client.aio.calls import AsyncCaller
from batchyard.client.aio.waiting import in_thread
from batchyard.client.files import PathLike, downloading, export_request, upload
from batchyard.client.job_file import read_message
from batchyard.v1.exchange_pb2 import CreateEnsembleRequest, ImportSpec, NetworkSpec
from batchyard.v1.models_pb2 import ModelVersion

if TYPE_CHECKING:
    from batchyard.v1.models_pb2_grpc import ModelServiceAsyncStub

TIMEOUT = 1800.0
"""Seconds: the service folds and certifies, and the line may be slow."""


class AsyncExchange:
    """Calls that move files to and from one control plane. Of one event loop. None is tried again."""

    def __init__(self, stub: ModelServiceAsyncStub, caller: AsyncCaller) -> None:
        self._stub, self._call = stub, caller

    async def export(self, name: str, file_format: str, out: PathLike) -> list[Path]:
        """Writes the version `name` to the new folder `out` and returns the files' paths.

        Args:
            name: models/{model}/versions/{n} or models/{model}@{alias}.
            file_format: a key of files.FORMATS.
            out: a folder that does not exist yet, or is empty. It is there whole or not at all.

        Raises:
            RpcError: the service refuses, or does not answer.
            TransferError: a file arrived damaged, or cannot be written.
        """
        request = export_request(name, file_format)
        with downloading(out) as download:
            try:
                stream: Any = self._stub.ExportModelVersion(request, timeout=TIMEOUT, metadata=self._call.metadata)
                async for response in stream:
                    await in_thread(download.take, response)
            except grpc.RpcError as error:
                raise self._call.failure(error) from None
            return await in_thread(download.finish)

    async def import_version(
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
        parts = await in_thread(upload, spec, {"weights": weights, "onnx": onnx, "samples": samples})
        try:
            return await self._stub.ImportModelVersion(parts, timeout=TIMEOUT, metadata=self._call.metadata)
        except grpc.RpcError as error:
            raise self._call.failure(error) from None

    async def create_ensemble(
        self, model: str, members: Sequence[str], alias: str = "", *, request_id: str | None = None
    ) -> ModelVersion:
        """Publishes the mean of the members' softmax as a new version of `model`. Raises RpcError.

        `members`: models/{model}/versions/{n} or models/{model}@{alias}, of the same input and classes. `request_id`:
        as import_version's.
        """
        request_id = request_id or str(uuid.uuid4())
        request = CreateEnsembleRequest(model=model, members=members, alias=alias, request_id=request_id)
        try:
            return await self._stub.CreateEnsemble(request, timeout=TIMEOUT, metadata=self._call.metadata)
        except grpc.RpcError as error:
            raise self._call.failure(error) from None

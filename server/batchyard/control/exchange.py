"""Versions that come from elsewhere and go elsewhere: import, export, ensembles. Raises the domain's errors."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from batchyard.artifact.reader import sha256_of
from batchyard.control import export_files, names, triton, uploads
from batchyard.control.export_files import TORCH_PROGRAM, Content
from batchyard.control.fetching import fetch
from batchyard.control.records import ModelVersion
from batchyard.control.registry import Registry
from batchyard.control.repeats import Request, check_request_id
from batchyard.control.torch_tasks import TorchTasks
from batchyard.control.uploads import FileHeader
from batchyard.endpoint.errors import FieldViolation, InvalidInputError, OverloadedError
from batchyard.training.spec import NAME_RULE

CHUNK = 1 << 20
"""Bytes in one message of a file."""
MOST_TRANSFERS = 4
"""Imports and exports at the same time: each may take gigabytes of disk."""
FEWEST_MEMBERS, MOST_MEMBERS = 2, 32
WEIGHTS, ONNX, SAMPLES = "weights", "onnx", "samples"
ONNX_FORMAT, TORCH_FORMAT, TRITON_FORMAT, TRITON_PYTHON_FORMAT = "onnx", "torch_export", "triton", "triton_python"


class Exchange:
    """Brings networks in and out of the registry."""

    def __init__(self, registry: Registry, tasks: TorchTasks) -> None:
        self._registry = registry
        self._tasks = tasks
        self._transfers = 0

    async def export(self, model: str, which: int | str, file_format: str) -> AsyncIterator[FileHeader | bytes]:
        """The version's files, headers and chunks. Raises NotFoundError, PreconditionError, OverloadedError."""
        version = await self._registry.get_version(model, which)
        with self._transfer():
            async with self._tasks.folder() as folder:
                files = await self._exported(version, file_format, folder)
                for path, content in files.items():
                    async for part in _parts(path, content):
                        yield part

    async def import_version(
        self,
        model: str,
        alias: str,
        network: Mapping[str, Any],
        parts: AsyncIterator[FileHeader | bytes],
        request_id: str = "",
    ) -> ModelVersion:
        """Publishes the network that `parts` hold as a new version of `model`.

        Raises InvalidInputError for what the files or `network` (NetworkSpec of the API) say, PreconditionError where
        the network cannot be certified, OverloadedError, AlreadyExistsError for a request_id of another import.
        """
        _check_names(model, alias)
        check_request_id(request_id, "spec.request_id")
        with self._transfer():
            async with self._tasks.folder() as folder:
                files = await uploads.receive(parts, folder, {WEIGHTS, ONNX, SAMPLES})
                if len(files.keys() & {WEIGHTS, ONNX}) != 1:
                    expected = f"expected one of {WEIGHTS} and {ONNX}, and perhaps {SAMPLES}"
                    raise _violation("file", f"the files {sorted(files)} given; {expected}")
                order = {"model": model, "network": dict(network)}
                spec = {**order, "alias": alias}
                request = Request(id=request_id, asked={"method": "import", "spec": spec, "files": files})
                module = "batchyard.training.importing"
                return await self._tasks.publish(module, order, folder, request, model=model, alias=alias)

    async def create_ensemble(
        self, model: str, alias: str, members: Sequence[tuple[str, int | str]], request_id: str = ""
    ) -> ModelVersion:
        """Publishes the mean of the members' softmax as a new version of `model`.

        Raises NotFoundError, InvalidInputError, PreconditionError, OverloadedError, AlreadyExistsError for a request_id
        of another one.
        """
        _check_names(model, alias)
        check_request_id(request_id)
        if not FEWEST_MEMBERS <= len(members) <= MOST_MEMBERS:
            expected = f"expected {FEWEST_MEMBERS} to {MOST_MEMBERS}"
            raise _violation("members", f"{len(members)} given; {expected}")
        versions = [await self._registry.get_version(*member) for member in members]
        with self._transfer():
            async with self._tasks.folder() as folder:
                for place, version in enumerate(versions):
                    await fetch(version, folder / f"member{place}")
                order = {"model": model, "members": [_identity(version) for version in versions]}
                given = ", ".join(f"{name}@{which}" for name, which in members)
                asked = {"method": "ensemble", "model": model, "alias": alias, "members": given}
                request = Request(id=request_id, asked=asked)
                module = "batchyard.training.ensembling"
                return await self._tasks.publish(module, order, folder, request, model=model, alias=alias)

    async def _exported(self, version: ModelVersion, file_format: str, folder: Path) -> dict[str, Content]:
        artifact = folder / "artifact"
        await fetch(version, artifact)
        if file_format == ONNX_FORMAT:
            return export_files.onnx(version, artifact)
        if file_format == TORCH_FORMAT:
            await self._tasks.run("batchyard.training.exporting", _identity(version), folder)
            return export_files.torch_export(version, folder / TORCH_PROGRAM)
        backend = triton.ONNX_RUNTIME if file_format == TRITON_FORMAT else triton.PYTHON
        return export_files.triton_repository(version, artifact, backend)

    @contextmanager
    def _transfer(self) -> Any:
        if self._transfers >= MOST_TRANSFERS:
            text = f"{self._transfers} imports and exports are under way; at most {MOST_TRANSFERS} may be"
            raise OverloadedError(text, reason="TRANSFERS_FULL", retry_after=10.0)
        self._transfers += 1
        try:
            yield
        finally:
            self._transfers -= 1


def _identity(version: ModelVersion) -> dict[str, Any]:
    return {"name": names.version(version.model, version.number), "manifest_sha256": version.manifest_sha256}


async def _parts(path: str, content: Content) -> AsyncIterator[FileHeader | bytes]:
    if isinstance(content, bytes):
        yield FileHeader(name=path, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        for at in range(0, len(content), CHUNK):
            yield content[at : at + CHUNK]
        return
    digest = await asyncio.to_thread(sha256_of, content)
    yield FileHeader(name=path, size=content.stat().st_size, sha256=digest)
    with content.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk


def _check_names(model: str, alias: str) -> None:
    rule = "1 to 40 characters of a-z, 0-9 and '-', beginning with a letter and not ending with '-'"
    given = {"model": model, **({"alias": alias} if alias else {})}
    wrong = {field: name for field, name in given.items() if not NAME_RULE.fullmatch(name)}
    if wrong:
        raise InvalidInputError(FieldViolation(f, f"{name[:80]!r} given; expected {rule}") for f, name in wrong.items())


def _violation(field: str, description: str) -> InvalidInputError:
    return InvalidInputError([FieldViolation(field, description)])

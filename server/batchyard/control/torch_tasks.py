"""Work that needs torch, done for a call: torch never loads in this process, so it runs in one of its own.

A task is a module that `python -m` runs with a folder as its only argument; batchyard.training.task is its other side.
The folder holds order.json and whatever files the order names; the task leaves result.json there, and the files that
the result names. A task ends with the call that asked for it: cancelled, it is killed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import sys
import uuid
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from batchyard.artifact import writer
from batchyard.artifact.errors import ArtifactError
from batchyard.artifact.manifest import Manifest
from batchyard.artifact.reader import read_certified_manifest
from batchyard.control import names
from batchyard.control.fetching import store_away
from batchyard.control.ledger import Ledger, Unit
from batchyard.control.records import ModelVersion
from batchyard.control.repeats import Request, Turns, check_same
from batchyard.control.store import models as store
from batchyard.control.store import version_requests
from batchyard.endpoint.errors import (
    DeadlineError,
    DomainError,
    FieldViolation,
    InvalidInputError,
    OverloadedError,
    PreconditionError,
)
from batchyard.training.spec import python_architecture

log = logging.getLogger(__name__)

LIMIT_SECONDS = 900.0
"""For one task, its wait for others included."""
MOST_WAITING = 4
"""Tasks run one at a time, as each may fill the machine; more than this many in line are refused."""
TAIL_LINES = 20


class TaskCrashedError(Exception):
    """A task ended without a result: a fault of ours, not of the caller's. The message ends with what it printed."""


class TorchTasks:
    """Runs tasks one at a time, and registers what they publish.

    Args:
        ledger: where new versions are written.
        folder: scratch space of ours alone; what an earlier control plane left there is removed.
        artifacts: the URI below which artifacts go.
        allow_python: packages of users' own networks, which a task may have to build again.
    """

    def __init__(self, ledger: Ledger, folder: Path, artifacts: str, allow_python: tuple[str, ...] = ()) -> None:
        self._ledger = ledger
        self._folder = folder
        self._artifacts = artifacts
        self._environment = {python_architecture.VARIABLE: ",".join(allow_python), "PYTHONUNBUFFERED": "1"}
        self._turn = asyncio.Lock()
        self._repeats = Turns()
        self._in_line = 0
        shutil.rmtree(folder, ignore_errors=True)

    @asynccontextmanager
    async def folder(self) -> AsyncIterator[Path]:
        """A new folder for one task's files, gone afterwards."""
        folder = self._folder / uuid.uuid4().hex
        await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True)
        try:
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def run(self, module: str, order: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """What the task `module` answers to `order`, JSON-ready both; its files are in `folder`.

        Raises InvalidInputError, PreconditionError and UnavailableError where the task says so, OverloadedError,
        DeadlineError, and TaskCrashedError.
        """
        if self._in_line > MOST_WAITING:
            text = f"{self._in_line} tasks of this kind run or wait already; at most {MOST_WAITING} may wait"
            raise OverloadedError(text, reason="TASKS_FULL", retry_after=30.0)
        self._in_line += 1
        try:
            async with asyncio.timeout(LIMIT_SECONDS), self._turn:
                return await _run(module, order, folder, self._environment)
        except TimeoutError:
            text = f"the work was not done within {LIMIT_SECONDS:g} s and was given up: nothing has changed"
            raise DeadlineError(text, reason="TASK_TOO_LONG") from None
        finally:
            self._in_line -= 1

    async def publish(
        self, module: str, order: Mapping[str, Any], folder: Path, request: Request, *, model: str, alias: str = ""
    ) -> ModelVersion:
        """Has the task write an artifact to order["artifact_uri"], which is added here, and registers it as the next
        version of `model`; `alias`, if not empty, is pointed at it in the same transaction.

        A `request` that has made a version already gives that one, and nothing is run.
        Raises what `run` raises, and AlreadyExistsError where its id has made a version of something else.
        """
        async with self._repeats.of(request.id):
            earlier = await self._ledger.read(lambda connection: _made_by(connection, request))
            return earlier or await self._publish(module, order, folder, request, model, alias)

    async def _publish(
        self, module: str, order: Mapping[str, Any], folder: Path, request: Request, model: str, alias: str
    ) -> ModelVersion:
        uri = f"{self._artifacts}/{model}-{uuid.uuid4().hex[:12]}"
        try:
            result = await self.run(module, {**order, "artifact_uri": uri}, folder)
            digest = str(result["manifest_sha256"])
            manifest = await asyncio.to_thread(_published, module, uri, digest, model)
        except BaseException:
            await asyncio.to_thread(_remove, uri)
            raise

        def register(unit: Unit) -> ModelVersion:
            version = store.add_version(unit.connection, manifest, uri, digest, unit.now)
            if alias:
                store.set_alias(unit.connection, model, alias, version.number)
            if request.id:
                version_requests.add(unit.connection, request.id, request.asked, version)
            unit.models_changed = True
            return version

        return await self._ledger.write(register)


def _made_by(connection: Connection, request: Request) -> ModelVersion | None:
    earlier = version_requests.find(connection, request.id) if request.id else None
    if earlier is None:
        return None
    asked, version = earlier
    check_same(names.version(version.model, version.number), request, asked)
    return version


def _remove(uri: str) -> None:
    """What may be there of an artifact that became no version."""
    try:
        writer.remove(uri)
    except OSError as error:
        log.warning("what may be at %s is no version's and was not removed: %s", uri, error)


def _published(module: str, uri: str, digest: str, model: str) -> Manifest:
    try:
        manifest = read_certified_manifest(uri, digest)
    except ArtifactError as error:
        if error.passing:
            raise store_away(f"what was to be a version of {model} cannot be read: {error}") from error
        raise TaskCrashedError(f"{module} published what cannot be registered: {error}") from error
    if manifest.model != model:
        raise TaskCrashedError(f"{module} published model {manifest.model!r}; expected {model!r}")
    return manifest


async def _run(module: str, order: Mapping[str, Any], folder: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    (folder / "order.json").write_text(json.dumps(order))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, str(folder)),
        # The task takes the end of its standard input for the end of us, and ends too.
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **environment},
        process_group=0,
    )
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    try:
        assert child.stdout is not None
        while chunk := await child.stdout.read(1 << 16):
            tail.extend(chunk.decode(errors="replace").splitlines())
        await child.wait()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return _read_result(folder, module, child.returncode, tail)


def _read_result(folder: Path, module: str, status: int | None, tail: deque[str]) -> dict[str, Any]:
    try:
        result = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        text = "\n".join(tail)
        raise TaskCrashedError(f"{module} ended with status {status} and no result; it printed:\n{text}") from None
    if error := result.get("error"):
        raise _domain_error(error)
    answer: dict[str, Any] = result["answer"]
    return answer


def _domain_error(error: Mapping[str, Any]) -> DomainError:
    if violations := error.get("violations"):
        return InvalidInputError(FieldViolation(v["field"], v["description"]) for v in violations)
    if error.get("passing"):
        return store_away(f"the new version cannot be written: {error['cause']}")
    return PreconditionError(f"{error['cause']}: {error['next_step']}", reason="TASK_FAILED")

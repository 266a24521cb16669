"""Writes a published model so that a reader finds it whole or not at all. No torch."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from batchyard.artifact.errors import ArtifactError
from batchyard.artifact.manifest import MANIFEST, Manifest
from batchyard.artifact.storage import Folder
from batchyard.failpoints import failpoint


def write(uri: str, manifest: Manifest, files: Mapping[str, bytes]) -> str:
    """Writes `files` and the manifest, with their digests filled in, to `uri` and returns the manifest's sha256.

    Raises ArtifactError when something is already there or the target cannot be written.
    """
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    text = dataclasses.replace(manifest, files=digests).to_json().encode()
    write_folder(uri, {**files, MANIFEST: text})
    return hashlib.sha256(text).hexdigest()


def write_folder(uri: str, files: Mapping[str, bytes]) -> None:
    """Writes `files` to the folder `uri`, whole or not at all; the last of them, the manifest, says that it is whole.

    On a local disk everything goes to a temporary folder, is synced, and is renamed. An object store has no rename:
    there the manifest comes last, and a folder without one does not count.
    Raises ArtifactError when something is already there or the target cannot be written.
    """
    try:
        folder = Folder(uri)
        *_, manifest = files
        # What a write that was cut short has left in an object store is written over.
        if folder.exists("" if folder.local else manifest):
            raise ArtifactError(f"{uri} exists already; an artifact is never overwritten")
        if folder.local:
            _write_local(folder.local, files)
        else:
            for name, content in files.items():
                folder.write(name, content)
    except OSError as error:
        raise ArtifactError.of(f"{uri} cannot be written: {type(error).__name__}: {error}", error) from error


def remove(uri: str) -> None:
    """Removes what was written, whole or in part, for an artifact that nobody has registered; nothing there is fine.

    Raises StorageError where an object store cannot be used.
    """
    folder = Folder(uri)
    if (target := folder.local) is None:
        return folder.remove()
    for left in (target, *target.parent.glob(f".{target.name}.*")):
        shutil.rmtree(left, ignore_errors=True)
    return None


def _write_local(target: Path, files: Mapping[str, bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        partial.mkdir()
        *_, manifest = files
        for name, content in files.items():
            failpoint("folder.before_file")
            if name == manifest:
                failpoint("folder.before_manifest")
            _write_synced(partial / name, content)
        _sync_folder(partial)
        failpoint("folder.before_rename")
        partial.rename(target)
        failpoint("folder.after_rename")
        _sync_folder(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        failpoint("folder.before_fsync")
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

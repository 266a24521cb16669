"""Reads a published model and refuses one that is damaged or not certified. No torch: inference planes import this."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from batchyard.artifact.errors import ArtifactError
from batchyard.artifact.manifest import MANIFEST, SAMPLES, Manifest, ManifestError
from batchyard.artifact.storage import Folder, StorageError

CHUNK = 1 << 20
"""Bytes read at a time."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The certificate's samples."""

    inputs: NDArray[np.float32]
    """Raw pixels 0..255, [samples, channels, height, width]."""
    outputs: NDArray[np.float64]
    """The fp64 oracle's logits, [samples, classes]."""


def read_manifest(uri: str) -> Manifest:
    """The manifest of the artifact at `uri` (a path or an fsspec URI), not yet verified. Raises ArtifactError."""
    return _parse(_read(_open(uri), MANIFEST), f"{uri}/{MANIFEST}")


def read_certified_manifest(uri: str, manifest_sha256: str) -> Manifest:
    """The manifest of the artifact at `uri`, if it is the expected one and its certificate passed.

    The files that it names are not looked at. Raises ArtifactError.
    """
    return _verified_manifest(_read(_open(uri), MANIFEST), manifest_sha256, f"{uri}/{MANIFEST}")


def fetch_and_verify(uri: str, manifest_sha256: str, into: Path) -> Manifest:
    """Copies the artifact at `uri` into the local folder `into` and returns its verified manifest.

    A folder that is already there is used if it verifies, else replaced; a crash leaves `into` either whole or absent.
    Raises ArtifactError as `verify` does, or when a file cannot be read.
    """
    if into.is_dir():
        try:
            return verify(into, manifest_sha256)
        except ArtifactError:
            shutil.rmtree(into)
    into.parent.mkdir(parents=True, exist_ok=True)
    partial = into.with_name(f".{into.name}.{uuid.uuid4().hex}")
    try:
        partial.mkdir()
        _copy(uri, manifest_sha256, partial)
        manifest = verify(partial, manifest_sha256)
        partial.rename(into)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def verify(folder: Path, manifest_sha256: str) -> Manifest:
    """Checks a local artifact: the manifest's sha256, each file's sha256, and that the certificate passed.

    Raises ArtifactError naming the file and both digests.
    """
    manifest = _verified_manifest(_read_local(folder / MANIFEST), manifest_sha256, str(folder / MANIFEST))
    for name, expected in manifest.files.items():
        _check_digest(str(folder / name), sha256_of(folder / name), expected)
    return manifest


def read_samples(folder: Path) -> Samples:
    """The certificate's samples in a verified local artifact. Raises ArtifactError."""
    try:
        tensors = load_file(folder / SAMPLES)
        return Samples(inputs=tensors["inputs"], outputs=tensors["outputs"])
    except (OSError, SafetensorError, KeyError) as error:
        raise ArtifactError(f"{folder / SAMPLES} does not hold the tensors inputs and outputs: {error!r}") from error


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a local file's bytes. Raises ArtifactError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _open(uri: str) -> Folder:
    try:
        return Folder(uri)
    except StorageError as error:
        raise ArtifactError(f"artifact URI {uri!r} cannot be opened: {error}") from error


def _read(folder: Folder, name: str) -> bytes:
    try:
        return folder.read(name)
    except OSError as error:
        raise _unreadable(folder, name, error) from error


def _unreadable(folder: Folder, name: str, error: OSError) -> ArtifactError:
    return ArtifactError.of(f"{folder.uri}/{name} cannot be read: {type(error).__name__}: {error}", error)


def _read_local(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error


def _copy(uri: str, manifest_sha256: str, folder: Path) -> None:
    """Copies the manifest, then, only if it is the expected one, the files that it names."""
    source = _open(uri)
    text = _read(source, MANIFEST)
    manifest = _verified_manifest(text, manifest_sha256, f"{uri}/{MANIFEST}")
    (folder / MANIFEST).write_bytes(text)
    for name in manifest.files:
        try:
            source.download(name, folder / name)
        except OSError as error:
            raise _unreadable(source, name, error) from error


def _verified_manifest(text: bytes, expected: str, where: str) -> Manifest:
    _check_digest(where, hashlib.sha256(text).hexdigest(), expected)
    manifest = _parse(text, where)
    certificate = manifest.certificate
    if not certificate.passed:
        error = f"largest error {certificate.max_error:g}, allowed {certificate.bound:g}"
        raise ArtifactError(f"{where}: the fold certificate did not pass ({error}); this version must not be served")
    return manifest


def _parse(text: bytes, where: str) -> Manifest:
    try:
        manifest = Manifest.from_json(text)
    except ManifestError as error:
        raise ArtifactError(f"{where}: {error}") from error
    for name in manifest.files:
        if name in ("", ".", "..", MANIFEST) or Path(name).name != name or "\\" in name:
            raise ArtifactError(f"{where} lists a file named {name!r}; expected plain names inside the artifact")
    return manifest


def _check_digest(where: str, actual: str, expected: str) -> None:
    if actual != expected:
        raise ArtifactError(f"{where} is damaged: its sha256 is {actual}, expected {expected}; publish the model again")

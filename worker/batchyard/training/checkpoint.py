"""Checkpoints on storage: what one is called, and how it is written, found, verified and removed. No pickle.

CHECKPOINTS/000000001000-2-DIGEST/   step, attempt, and the first 32 hex digits of the manifest's sha256
    tensors.safetensors              every tensor of the state
    checkpoint.json                  the manifest: job, step, workers, numbers and text, and the tensors' sha256

The name vouches for the manifest and the manifest for the tensors, so that whatever was cut short or changed is found.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import safetensors.torch
import torch
from safetensors import SafetensorError

from batchyard.artifact.errors import ArtifactError
from batchyard.artifact.storage import Folder, StorageError
from batchyard.artifact.writer import remove, write_folder
from batchyard.failpoints import failpoint
from batchyard.training.spec.retention import retained

MANIFEST = "checkpoint.json"
TENSORS = "tensors.safetensors"
FORMAT = 1
DIGITS = 32
"""Of the manifest's digest, in the name: 128 bits."""
PATTERN = re.compile(rf"(\d{{12}})-(\d+)-([0-9a-f]{{{DIGITS}}})")

Scalar = int | float | str


class DamagedError(Exception):
    """A checkpoint is not what was written; says why."""


class CheckpointError(Exception):
    """A checkpoint cannot be written; says why."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state of training after a step, in memory."""

    job: str
    step: int
    """Optimiser steps done."""
    world_size: int
    tensors: Mapping[str, torch.Tensor]
    """On the CPU, contiguous, shared with nothing."""
    scalars: Mapping[str, Scalar] = field(default_factory=dict)
    accuracy: float | None = None
    """Held-out, after this step; None: nobody has evaluated."""


@dataclass(frozen=True, order=True, kw_only=True)
class Name:
    """A checkpoint's folder name; the later one is the greater."""

    step: int
    attempt: int
    digest: str

    def __str__(self) -> str:
        return f"{self.step:012d}-{self.attempt}-{self.digest}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The name that `text` is; None for anything else."""
        match = PATTERN.fullmatch(text)
        return match and cls(step=int(match[1]), attempt=int(match[2]), digest=match[3])


@dataclass(frozen=True, kw_only=True)
class Files:
    """A checkpoint as bytes, verified."""

    manifest: bytes
    tensors: bytes

    def snapshot(self) -> Snapshot:
        """What they hold."""
        about = json.loads(self.manifest)
        values = {name: about[name] for name in ("job", "step", "world_size", "scalars")}
        return Snapshot(**values, tensors=safetensors.torch.load(self.tensors))


@dataclass(frozen=True, kw_only=True)
class Written:
    """A checkpoint that is durable."""

    name: Name
    uri: str
    sha256: str
    """Of the manifest."""
    tensors_sha256: str
    bytes: int


class CheckpointFolder:
    """The checkpoints of one job, of all its attempts, at an fsspec URI."""

    def __init__(self, uri: str) -> None:
        """Raises StorageError for a URI that cannot be used."""
        self._folder = Folder(uri)

    def write(self, snapshot: Snapshot, attempt: int) -> Written:
        """Writes a checkpoint and returns when it is durable. Raises CheckpointError."""
        tensors = safetensors.torch.save(dict(snapshot.tensors))
        digest = hashlib.sha256(tensors).hexdigest()
        about = {
            "format": FORMAT,
            "job": snapshot.job,
            "step": snapshot.step,
            "attempt": attempt,
            "world_size": snapshot.world_size,
            "scalars": dict(snapshot.scalars),
            "accuracy": snapshot.accuracy,
            "tensors": {"sha256": digest, "bytes": len(tensors)},
        }
        manifest = json.dumps(about, indent=1, sort_keys=True).encode()
        sha256 = hashlib.sha256(manifest).hexdigest()
        name = Name(step=snapshot.step, attempt=attempt, digest=sha256[:DIGITS])
        uri = self.uri(name)
        try:
            write_folder(uri, {TENSORS: tensors, MANIFEST: manifest})
        except ArtifactError as error:
            raise CheckpointError(str(error)) from error
        size = len(tensors) + len(manifest)
        return Written(name=name, uri=uri, sha256=sha256, tensors_sha256=digest, bytes=size)

    def uri(self, name: Name) -> str:
        """Where a checkpoint lies."""
        return f"{self._folder.uri}/{name}"

    def names(self) -> list[Name]:
        """The checkpoints that are there, damaged ones too, newest first. Raises OSError."""
        return sorted(filter(None, map(Name.parse, self._folder.names())), reverse=True)

    def read(self, name: Name, job: str, world_size: int) -> Files:
        """A checkpoint of this job with so many workers.

        Raises DamagedError; StorageError where it cannot be told, because the store is out of reach.
        """
        try:
            files = Files(
                manifest=self._folder.read(f"{name}/{MANIFEST}"), tensors=self._folder.read(f"{name}/{TENSORS}")
            )
            _verify(name, files, {"format": FORMAT, "job": job, "world_size": world_size})
        except StorageError:
            raise
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DamagedError(f"{type(error).__name__}: {error}") from error
        return files

    def prune(self, keep: int, attempt: int, keep_best: int = 0) -> None:
        """Leaves the newest `keep` checkpoints, the `keep_best` most accurate, and those of later attempts: none of
        ours. Raises OSError.
        """
        ours = [name for name in self.names() if name.attempt <= attempt]
        kept = retained({name.step: self._accuracy(name) if keep_best else None for name in ours}, keep, keep_best)
        for name in ours:
            if name.step not in kept:
                self._remove(name)

    def _accuracy(self, name: Name) -> float | None:
        """What its manifest says; None for one that is damaged, or from before it was said."""
        try:
            accuracy: float | None = json.loads(self._folder.read(f"{name}/{MANIFEST}")).get("accuracy")
        except (FileNotFoundError, ValueError):
            return None
        return accuracy

    def sweep(self, step: int, attempt: int) -> None:
        """Removes what earlier attempts left: files of a write that was cut short, and checkpoints of steps beyond the
        one that training goes on from. Raises OSError.
        """
        for name in self.names():
            if name.step > step and name.attempt < attempt:
                self._remove(name)
        for left in self._folder.names():
            if left.startswith("."):
                self._folder.remove(left)

    def _remove(self, name: Name) -> None:
        """The manifest goes first: what is left without it does not count."""
        self._folder.remove(f"{name}/{MANIFEST}")
        failpoint("checkpoint.in_removal")
        remove(self.uri(name))


def _verify(name: Name, files: Files, expected: Mapping[str, object]) -> None:
    """Raises ValueError."""
    if not hashlib.sha256(files.manifest).hexdigest().startswith(name.digest):
        raise ValueError(f"{MANIFEST} is not what its folder's name vouches for")
    about = json.loads(files.manifest)
    for key, value in {**expected, "step": name.step}.items():
        if about[key] != value:
            raise ValueError(f"{MANIFEST}: {key}: {about[key]!r} found; expected {value!r}")
    if hashlib.sha256(files.tensors).hexdigest() != about["tensors"]["sha256"]:
        raise ValueError(f"{TENSORS} is not what {MANIFEST} vouches for")

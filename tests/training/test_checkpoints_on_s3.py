"""Checkpoints on a real S3 server, which comes and goes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from batchyard.artifact.storage import StorageError
from batchyard.training.checkpoint import MANIFEST, CheckpointError, CheckpointFolder, DamagedError, Snapshot
from tests import s3

URI = f"s3://{s3.BUCKET}/checkpoints/job-1"


def snapshot(step: int) -> Snapshot:
    return Snapshot(job="job-1", step=step, world_size=1, tensors={"w": torch.full((3,), float(step))})


def test_checkpoints_are_written_read_pruned_and_swept_and_a_store_out_of_reach_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with s3.serving(tmp_path) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        folder = CheckpointFolder(URI)
        written = [folder.write(snapshot(step), attempt=1).name for step in (10, 20, 30, 40)]
        assert folder.names() == written[::-1]
        folder.prune(keep=3, attempt=1)
        folder.sweep(step=30, attempt=2)
        assert folder.names() == [written[2], written[1]]
        assert folder.read(written[2], "job-1", 1).snapshot().tensors["w"].tolist() == [30.0] * 3

        # A write that was cut short before its manifest.
        s3.bucket(environment).delete_objects(
            Delete={"Objects": [{"Key": f"checkpoints/job-1/{written[2]}/{MANIFEST}"}]}
        )
        with pytest.raises(DamagedError, match="FileNotFoundError"):
            folder.read(written[2], "job-1", 1)

    with pytest.raises(StorageError, match="cannot be used now") as found:
        folder.read(written[1], "job-1", 1)
    assert found.value.passing
    with pytest.raises(CheckpointError, match="cannot be used now"):
        folder.write(snapshot(50), attempt=2)

"""Which checkpoints are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from batchyard.training import worker
from batchyard.training.checkpoint import CheckpointFolder, Snapshot
from batchyard.training.spec.retention import retained

ACCURACIES = {10: 0.7, 20: 0.9, 30: None, 40: 0.9, 50: 0.8}


@pytest.mark.parametrize(
    ("keep", "keep_best", "kept"),
    [
        pytest.param(1, 0, {50}, id="the last alone"),
        pytest.param(2, 1, {20, 40, 50}, id="of equal ones the earlier"),
        pytest.param(1, 2, {20, 40, 50}, id="two best"),
        pytest.param(9, 9, {10, 20, 30, 40, 50}, id="all"),
    ],
)
def test_the_latest_are_kept_and_the_most_accurate(keep: int, keep_best: int, kept: set[int]) -> None:
    assert retained(ACCURACIES, keep, keep_best) == kept


@pytest.mark.parametrize(("spare", "left"), [(0, [40]), (2, [40, 30, 20])])
def test_a_worker_leaves_as_many_more_as_others_remove(
    a_job: Callable[..., dict[str, Any]], a_context: Callable[..., Any], tmp_path: Path, spare: int, left: list[int]
) -> None:
    spec = a_job(steps=40, checkpoint__every_steps=10, checkpoint__keep=1)
    uri = f"file://{tmp_path}/checkpoints"
    context, _ = a_context(spec, checkpoint_uri=uri, spare_checkpoints=spare)
    worker.run(context)
    assert [name.step for name in CheckpointFolder(uri).names()] == left


def test_the_worker_removes_what_is_neither(tmp_path: Path) -> None:
    folder = CheckpointFolder(f"file://{tmp_path}/checkpoints")
    for step, accuracy in ACCURACIES.items():
        state = Snapshot(job="job-1", step=step, world_size=1, tensors={"w": torch.ones(3)}, accuracy=accuracy)
        folder.write(state, attempt=1)
    folder.prune(keep=1, attempt=1, keep_best=1)
    assert [name.step for name in folder.names()] == [50, 20]

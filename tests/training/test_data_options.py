"""What a job may say about its data, through whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from batchyard.training import worker
from batchyard.training.context import WorkerContext
from batchyard.training.events import Evaluation, Event, LogLine, StepMetrics, TrainingError

Job = Callable[..., dict[str, Any]]
Context = Callable[..., tuple[WorkerContext, list[Event]]]


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of image files, bright ones and dark ones."""
    monkeypatch.setenv("BATCHYARD_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(1)
    for label, low in (("dark", 0), ("light", 128)):
        for i in range(40):
            path = tmp_path / "shapes" / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(low, low + 128, (6, 6, 3)).astype(np.uint8)).save(path)
    return tmp_path / "shapes"


def losses(job: dict[str, Any], a_context: Context) -> list[float]:
    context, events = a_context(job)
    worker.run(context)
    return [event.loss for event in events if isinstance(event, StepMetrics)]


def test_a_folder_of_images_is_learnt(shapes: Path, a_job: Job, a_context: Context) -> None:
    context, events = a_context(a_job(data__dataset=shapes.as_uri(), data__batch_size=20, steps=60))
    worker.run(context)
    assert [event for event in events if isinstance(event, Evaluation)][-1].accuracy == 1
    said = [event.text for event in events if isinstance(event, LogLine)]
    assert any(text.startswith("dataset shapes: decoding 80 images") for text in said)
    assert "shapes: 64 training and 16 test samples" in said


def test_corrupt_images_fail_the_job_or_are_counted_in_its_log(shapes: Path, a_job: Job, a_context: Context) -> None:
    (shapes / "dark" / "3.png").write_bytes(b"")
    job = a_job(data__dataset=shapes.as_uri(), data__batch_size=20, steps=1)
    with pytest.raises(TrainingError, match=r"dark/3.png cannot be decoded: the file is empty"):
        worker.run(a_context(job)[0])
    job["data"]["on_error"] = "skip"
    context, events = a_context(job)
    worker.run(context)
    said = [event.text for event in events if isinstance(event, LogLine)]
    assert any("1 corrupt image left out" in text for text in said)


@pytest.mark.parametrize(
    "option",
    [
        {"augment": {"crop": 1}},
        {"augment": {"flip": True, "cutout": 2, "colour_jitter": 0.2}},
        {"shuffle": "within_shard"},
    ],
    ids=["crop", "rest", "within-shard"],
)
def test_an_option_changes_training_and_is_the_same_each_time(
    option: dict[str, Any], a_job: Job, a_context: Context
) -> None:
    plain, changed = a_job(steps=3), a_job(steps=3)
    changed["data"] |= option
    assert losses(changed, a_context) == losses(changed, a_context) != losses(plain, a_context)


def test_a_crop_larger_than_the_images_is_the_users_to_mend(a_job: Job, a_context: Context) -> None:
    job = a_job(steps=1)
    job["data"]["augment"] = {"crop": 9}
    with pytest.raises(TrainingError, match=r"data.augment.crop: 9 given; the images are 8x8"):
        worker.run(a_context(job)[0])

"""Streamed data: the same batches as in memory, bounded in what it holds, and clear about what it cannot decode."""

from __future__ import annotations

import dataclasses
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from batchyard import data
from batchyard.data import DataError, Dataset, Options
from batchyard.data.encoded import Encoded, Form
from batchyard.data.streamed import StreamedSplit
from batchyard.training import loading, worker
from batchyard.training.context import WorkerContext
from batchyard.training.events import Evaluation, Event, LogLine, StepMetrics, TrainingError
from batchyard.training.group import Group
from batchyard.training.spec import TrainingJobSpec
from batchyard.training.streaming import StreamedBatches, StreamedSamples

Job = Callable[..., dict[str, Any]]
Context = Callable[..., tuple[WorkerContext, list[Event]]]
CPU = torch.device("cpu")


def png(seed: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 5, 3)).astype(np.uint8)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for part, count in (("train", 30), ("test", 7)):
        for label in ("cat", "dog"):
            for i in range(count):
                path = tmp_path / "pets" / part / label / f"{i:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(len(part) * 1000 + ord(label[0]) * 10000 + i))
    return tmp_path / "pets"


def loaded(pets: Path, cache: str, **options: Any) -> Dataset:
    return data.load(pets.as_uri(), [], Options(folder=pets.parent / "cache", cache=cache, workers=2, **options))


def group(rank: int = 0, world_size: int = 1) -> Group:
    return Group(rank=rank, world_size=world_size, device=CPU)


def equal(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"augment": {"flip": True, "crop": 1}}, {"shuffle": "within_shard"}],
                         ids=["plain", "augmented", "within-shard"])  # fmt: skip
def test_streamed_batches_are_those_of_memory(options: dict[str, Any], world_size: int, pets: Path, a_job: Job) -> None:
    memory, stream = loaded(pets, "memory"), loaded(pets, "stream")
    assert (stream.mean, stream.std, stream.classes) == (memory.mean, memory.std, memory.classes)
    job = a_job(accumulate=2, data__dataset=pets.as_uri(), data__batch_size=14)
    job["data"] |= options
    spec = TrainingJobSpec.from_mapping(job)
    for rank in range(world_size):
        place = group(rank, world_size)
        of_memory, of_stream = (loading.batches_of(spec, each, place) for each in (memory, stream))
        assert isinstance(of_stream, StreamedBatches)
        for step in (1, 2, 3, 4, 5, 6, 30, 2):  # across epochs, forwards and back
            assert equal(of_memory.shard(step), of_stream.shard(step))
            pairs = zip(of_memory.micro_batches(step), of_stream.micro_batches(step), strict=True)
            assert all(equal(*pair) for pair in pairs)


def test_held_out_samples_come_in_order(pets: Path, a_job: Job) -> None:
    spec = TrainingJobSpec.from_mapping(a_job(data__dataset=pets.as_uri()))
    memory, stream = (loading.samples_of(spec, loaded(pets, each).test, group()) for each in ("memory", "stream"))
    assert len(memory) == len(stream) == 14
    for one, other in zip(memory.run(range(3, 14), 4), stream.run(range(3, 14), 4), strict=True):
        assert equal(one, other)
    assert equal(memory.pick(torch.tensor([5, 1])), stream.pick(torch.tensor([5, 1])))


def test_what_is_decoded_ahead_is_bounded() -> None:
    """Nothing takes the batches after the first; decoding comes to rest by itself."""
    lock, decoded = threading.Lock(), []

    def read(index: int) -> bytes:
        with lock:
            decoded.append(index)
        return png(index)

    encoded = Encoded(names=[str(i) for i in range(1000)], labels=np.zeros(1000, np.int64), read=read)
    form = Form(channels=3, height=6, width=5, resize=False)
    samples = StreamedSamples(StreamedSplit(encoded, form, "fail", print), CPU, threads=2)
    batches = StreamedBatches(samples, data.Order(seed=1, samples=1000, batch_size=10), group())
    batches.shard(1)
    batches.shard(2)
    samples.pool.shutdown()  # waits for all that was asked for
    assert len(decoded) == 10 * (1 + samples.ahead)  # the first batch, the second and what is ahead of it
    assert samples.ahead == 4


def test_a_corrupt_image_is_named_when_its_batch_comes(pets: Path, a_job: Job) -> None:
    dataset = loaded(pets, "stream")
    (pets / "train" / "dog" / "11.png").write_bytes(b"no")
    spec = TrainingJobSpec.from_mapping(a_job(data__dataset=pets.as_uri(), data__batch_size=60))
    with pytest.raises(DataError, match=r"train/dog/11.png cannot be decoded: .*data.on_error: skip"):
        loading.batches_of(spec, dataset, group()).shard(1)


def test_a_skipped_image_gives_its_place_to_the_next_and_is_told_once(pets: Path) -> None:
    (pets / "train" / "cat" / "29.png").write_bytes(b"no")
    said: list[str] = []
    dataset = loaded(pets, "stream", on_error="skip", log=said.append)
    images, labels = dataset.train.read(np.array([28, 29, 30]))
    assert labels.tolist() == [0, 1, 1]  # the next one is a dog
    assert np.array_equal(images[1], images[2])
    told = [text for text in said if "29.png" in text]
    assert len(told) == 1
    assert "corrupt image number 1 left out: " in told[0]


def test_auto_streams_what_does_not_fit(pets: Path) -> None:
    said: list[str] = []
    size = 74 * 3 * 6 * 5
    assert isinstance(loaded(pets, "auto", most_bytes=size - 1, note=said.append).train, StreamedSplit)
    assert "dataset pets: streamed; decoded it would take" in said[0]
    assert not isinstance(loaded(pets, "auto", most_bytes=size).train, StreamedSplit)
    assert not isinstance(loaded(pets, "auto").train, StreamedSplit)


def test_data_that_is_in_memory_anyway_is_not_streamed() -> None:
    with pytest.raises(DataError, match=r"data.cache: stream given; digits is not made of image files"):
        data.load("digits", [], dataclasses.replace(Options(fetch=False), cache="stream"))


def test_a_streamed_job_reports_the_numbers_of_one_from_memory_to_the_last_bit(
    pets: Path, monkeypatch: pytest.MonkeyPatch, a_job: Job, a_context: Context
) -> None:
    monkeypatch.setenv("BATCHYARD_CACHE", str(pets.parent / "cache"))
    numbers = {}
    for cache in ("memory", "stream"):
        job = a_job(steps=8, data__dataset=pets.as_uri(), data__batch_size=16, metrics={"every_steps": 1})
        job["data"]["cache"] = cache
        context, events = a_context(job)
        worker.run(context)
        steps = [event.loss for event in events if isinstance(event, StepMetrics)]
        numbers[cache] = [*steps, *(event.loss for event in events if isinstance(event, Evaluation))]
        streamed = any("pets: streamed; " in event.text for event in events if isinstance(event, LogLine))
        assert streamed == (cache == "stream")
    assert numbers["memory"] == numbers["stream"]
    assert len(numbers["memory"]) == 9


def test_a_file_that_goes_away_is_the_users_to_mend(
    pets: Path, monkeypatch: pytest.MonkeyPatch, a_job: Job, a_context: Context
) -> None:
    monkeypatch.setenv("BATCHYARD_CACHE", str(pets.parent / "cache"))
    job = a_job(steps=8, data__dataset=pets.as_uri(), data__batch_size=16, data__cache="stream")
    (pets / "train" / "cat" / "05.png").write_bytes(b"GIF89a")
    with pytest.raises(TrainingError, match=r"train/cat/05.png cannot be decoded"):
        worker.run(a_context(job)[0])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_streamed_batches_reach_a_gpu_as_they_are(pets: Path, a_job: Job) -> None:
    spec = TrainingJobSpec.from_mapping(a_job(data__dataset=pets.as_uri(), data__batch_size=14))
    stream, memory = loaded(pets, "stream"), loaded(pets, "memory")
    gpu = Group(rank=0, world_size=1, device=torch.device("cuda"))
    on_gpu, on_cpu = loading.batches_of(spec, stream, gpu), loading.batches_of(spec, memory, group())
    for step in range(1, 9):
        assert equal(tuple(part.cpu() for part in on_gpu.shard(step)), on_cpu.shard(step))

"""A job's dataset, as its spec asks for it."""

from __future__ import annotations

from batchyard import data
from batchyard.data import Dataset, Options
from batchyard.data.augment import Augmentation, Policy
from batchyard.training.context import WorkerContext
from batchyard.training.events import LogLine
from batchyard.training.spec import TrainingJobSpec


def load(context: WorkerContext) -> Dataset:
    """Loads the dataset of context.spec, and logs what took time or was left out. Raises DataError."""

    def log(text: str) -> None:
        if context.rank == 0:
            context.emit(LogLine(level="INFO", text=text, rank=0))

    spec = context.spec.data
    options = Options(
        image_size=spec.image_size,
        test_share=spec.test_share,
        on_error=spec.on_error,
        cache=spec.cache,
        workers=spec.workers,
        log=log,
    )
    return data.load(spec.dataset, context.data_folders, options)


def augmentation(spec: TrainingJobSpec, dataset: Dataset) -> Augmentation | None:
    """What changes training images as `spec` asks for; None where it asks for nothing. Raises DataError."""
    policy = Policy(**vars(spec.data.augment))
    return Augmentation(policy, spec.seed, dataset.image_shape, dataset.mean) if policy else None

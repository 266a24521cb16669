from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from batchyard.training.spec import SpecError, TrainingJobSpec

Job = Callable[..., dict[str, Any]]


def test_workers_that_normalise_by_themselves_need_two_samples_each(a_job: Job) -> None:
    job = a_job(data__batch_size=5, workers__count=3, workers__sync_batch_norm="none")
    with pytest.raises(SpecError, match=r"data\.batch_size: 5 given; expected 2 samples for each of the 3 workers"):
        TrainingJobSpec.from_mapping(job)


@pytest.mark.parametrize(
    "change", [{"data__batch_size": 6}, {"workers__sync_batch_norm": "world"}, {"model__norm": "none"}]
)
def test_each_way_out_that_the_error_names_is_one(a_job: Job, change: dict[str, Any]) -> None:
    values = {"data__batch_size": 5, "workers__count": 3, "workers__sync_batch_norm": "none"}
    TrainingJobSpec.from_mapping(a_job(**{**values, **change}))

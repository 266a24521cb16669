"""docs/data.md: every example on it is a legal job."""

from pathlib import Path

import pytest

from batchyard.client import read_job
from batchyard.control.rpc.convert import spec_mapping
from batchyard.training.spec import DATASETS, TrainingJobSpec

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
EXAMPLES = [line.strip() for line in PAGE.splitlines() if line.startswith("    data: {")]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_page_is_a_job(example: str) -> None:
    job = f"name: a\nmodel: {{architecture: mlp}}\nsteps: 1\n{example}\n"
    assert TrainingJobSpec.from_mapping(spec_mapping(read_job(job))).data.dataset


def test_the_page_has_every_dataset_and_every_key_of_its_own() -> None:
    assert len(EXAMPLES) >= 8
    for word in (*DATASETS, "image_size", "test_share", "on_error", "shuffle", "cache", "workers", "BATCHYARD_CACHE"):
        assert f"`{word}" in PAGE or f"${word}`" in PAGE, word

"""Tags and a note: submit --tag, job tag, job show."""

import json
from typing import Any

import pytest

from batchyard.client.testing import FakeService

JOB = "trainingJobs/try-1"


@pytest.fixture(autouse=True)
def submitted(run: Any) -> None:
    assert run("submit", "job.yaml", "--tag", "sweep-3", "--tag", "best").exit_code == 0


def test_a_job_is_submitted_with_tags_which_can_be_changed(run: Any, service: FakeService) -> None:
    assert list(service.jobs[JOB].tags) == ["best", "sweep-3"]
    assert run("job", "tag", "try-1", "paper/fig1", "--remove", "best").stdout == "paper/fig1\nsweep-3\n"
    assert run("job", "tag", "try-1").stdout == "paper/fig1\nsweep-3\n"
    assert json.loads(run("job", "tag", "try-1", "--json").stdout)["tags"] == ["paper/fig1", "sweep-3"]


def test_a_note_is_set_shown_and_removed(run: Any, service: FakeService) -> None:
    run("job", "tag", "try-1", "--note", "too high a rate")
    shown = run("job", "show", "try-1").stdout
    assert "tags\tbest sweep-3\n" in shown
    assert "note\ttoo high a rate\n" in shown

    run("job", "tag", "try-1", "--note", "")

    assert service.jobs[JOB].note == ""


def test_a_job_that_is_not_there_cannot_be_tagged(run: Any) -> None:
    result = run("job", "tag", "none-such", "a")
    assert result.exit_code != 0
    assert "none-such" in result.stderr

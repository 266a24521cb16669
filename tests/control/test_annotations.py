"""Tags and notes: what people write about jobs, and find them by. Over gRPC."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from batchyard.control.listing import Listing
from batchyard.v1 import training_pb2 as pb
from tests.control.harness import Service, a_spec, job_id, refused


async def annotate(service: Service, job: str, **request: Any) -> pb.TrainingJob:
    answer = await service.training.AnnotateTrainingJob(
        pb.AnnotateTrainingJobRequest(name=f"trainingJobs/{job}", **request)
    )
    assert isinstance(answer, pb.TrainingJob)
    return answer


async def test_tags_are_added_and_taken_away_and_a_note_is_set(service: Service) -> None:
    job = await service.submit()

    first = await annotate(service, job, add_tags=["sweep-3", "paper/fig1", "sweep-3"])
    second = await annotate(service, job, note="the rate was too high\n  see fig. 1")
    third = await annotate(service, job, add_tags=["best"], remove_tags=["sweep-3", "none-such"])

    assert (list(first.tags), first.note) == (["paper/fig1", "sweep-3"], "")
    assert (list(second.tags), second.note) == (["paper/fig1", "sweep-3"], "the rate was too high\n  see fig. 1")
    assert (list(third.tags), third.note) == (["best", "paper/fig1"], second.note)
    assert (await annotate(service, job, note="")).note == ""


async def test_a_job_keeps_what_is_written_about_it_while_it_runs_and_after(service: Service) -> None:
    job = await service.submit()
    await service.until_started(job)
    await annotate(service, job, add_tags=["kept"], note="while it ran")
    await service.cancel(job)

    found = await service.until_state(job, "CANCELLED")
    later = await annotate(service, job, add_tags=["later"])

    assert (list(found.tags), found.note) == (["kept"], "while it ran")
    assert list(later.tags) == ["kept", "later"]


async def test_a_job_is_created_with_tags_and_found_by_them(service: Service) -> None:
    once = "9b9f7c5e-5d0c-4c4b-8a52-3f6d1f1f7a01"
    request = pb.CreateTrainingJobRequest(spec=a_spec(), tags=["Sweep-3", "a"], request_id=once)
    made = await service.training.CreateTrainingJob(request)
    again = await service.training.CreateTrainingJob(request)
    other = await service.submit()
    await annotate(service, other, note="Better than the sweep before")

    assert (list(made.tags), again.name, list(again.tags)) == (["Sweep-3", "a"], made.name, ["Sweep-3", "a"])
    found = {words: [job.id for job in (await service.plane.jobs.list(listing=Listing(search=words))).jobs]
             for words in ("sweep-3", "SWEEP", "sweep before", "none-such")}  # fmt: skip
    first = job_id(made)
    assert found == {"sweep-3": [first], "SWEEP": [other, first], "sweep before": [other], "none-such": []}


@pytest.mark.parametrize(
    ("request_fields", "field", "words"),
    [
        ({"add_tags": ["fine", "two words"]}, "add_tags[1]", "'two words' given; expected 1 to 64 letters"),
        ({"add_tags": [""]}, "add_tags[0]", "'' given; expected 1 to 64 letters"),
        ({"add_tags": ["x" * 65]}, "add_tags[0]", "expected 1 to 64 letters"),
        ({"add_tags": [f"t{n}" for n in range(20)]}, "add_tags", "the job would have 21 tags; expected 20 at most"),
        ({"note": "x" * 2001}, "note", "2001 characters given; expected 2000 at most"),
        ({"note": "a\0b"}, "note", "a NUL character given"),
    ],
    ids=["two words", "empty", "long", "many", "long note", "nul"],
)
async def test_what_is_not_legal_is_named_and_nothing_changed(
    service: Service, request_fields: dict[str, Any], field: str, words: str
) -> None:
    job = await service.submit()
    await annotate(service, job, add_tags=["before"], note="before")

    async with refused() as found:
        await annotate(service, job, **request_fields)

    (error,) = found
    assert error.code == grpc.StatusCode.INVALID_ARGUMENT
    assert words in error.fields[field]
    unchanged = await annotate(service, job)
    assert (list(unchanged.tags), unchanged.note) == (["before"], "before")


async def test_a_job_that_is_not_there_has_no_tags(service: Service) -> None:
    async with refused() as found:
        await annotate(service, "none-such", add_tags=["a"])

    assert found[0].code == grpc.StatusCode.NOT_FOUND

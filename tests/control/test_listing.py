"""ListTrainingJobs, over gRPC."""

from __future__ import annotations

import base64
from typing import Any

import grpc
import pytest

from batchyard.v1 import training_pb2
from tests.control.harness import Service, job_id, refused


async def page(service: Service, **request: Any) -> training_pb2.ListTrainingJobsResponse:
    response = await service.training.ListTrainingJobs(training_pb2.ListTrainingJobsRequest(**request))
    assert isinstance(response, training_pb2.ListTrainingJobsResponse)
    return response


def ids(response: training_pb2.ListTrainingJobsResponse) -> list[str]:
    return [job_id(job) for job in response.training_jobs]


async def test_pages_hold_every_job_once_newest_first(service: Service) -> None:
    made = [await service.submit() for _ in range(7)]
    found, token = [], ""
    for _ in range(4):
        response = await page(service, page_size=2, page_token=token)
        found += ids(response)
        token = response.next_page_token
    assert found == made[::-1]
    assert token == ""


async def test_a_job_that_comes_between_two_pages_shifts_nothing(service: Service) -> None:
    made = [await service.submit() for _ in range(4)]
    first = await page(service, page_size=2)
    await service.submit()
    second = await page(service, page_size=2, page_token=first.next_page_token)
    assert ids(first) + ids(second) == made[::-1]


async def test_only_the_states_asked_for_are_listed(service: Service) -> None:
    running, gone = await service.submit(workers={"count": 2}), await service.submit()
    await service.until_started(running)
    await service.cancel(gone)
    assert ids(await page(service, states=[training_pb2.TrainingJob.CANCELLED])) == [gone]


async def test_no_jobs_are_an_empty_page(service: Service) -> None:
    response = await page(service)
    assert (list(response.training_jobs), response.next_page_token) == ([], "")


@pytest.mark.parametrize(
    ("request_fields", "field"),
    [
        ({"page_size": -1}, "page_size"),
        ({"page_token": "garbage"}, "page_token"),
        ({"page_token": "ünicode"}, "page_token"),
        ({"page_token": base64.urlsafe_b64encode(b'["0", 3]').decode()}, "page_token"),
        ({"page_token": base64.urlsafe_b64encode(b"{}").decode()}, "page_token"),
        ({"states": [0]}, "states"),
        ({"states": [77]}, "states"),
    ],
)
async def test_a_bad_request_names_its_field(service: Service, request_fields: dict[str, Any], field: str) -> None:
    async with refused() as found:
        await page(service, **request_fields)
    assert found[0].code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(found[0].fields) == [field]


async def test_a_token_of_another_listing_is_refused(service: Service) -> None:
    for _ in range(3):
        await service.submit()
    token = (await page(service, page_size=1)).next_page_token
    async with refused() as found:
        await page(service, page_size=1, page_token=token, states=[training_pb2.TrainingJob.QUEUED])
    assert list(found[0].fields) == ["page_token"]

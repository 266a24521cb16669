"""Server-sent events: the whole history, then what comes, resumable, thinned when asked."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from batchyard.control.records import Failure
from batchyard.training.events import LogLine, StepMetrics

from .conftest import Site, Tell, Yard, begin_training, story

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECONDS = 15


class Reader:
    """Reads messages one by one; None at the end."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.id = ""

    async def next(self) -> Any:
        message: dict[str, str] = {}
        async with asyncio.timeout(SECONDS):
            async for line in self.response.content:
                field, _, value = line.decode().rstrip("\n").partition(": ")
                if field and line != b"\n":
                    message[field] = value
                elif "data" in message:
                    self.id = message.get("id", "")
                    return json.loads(message["data"])
        return None

    async def rest(self) -> list[Any]:
        messages = []
        while (message := await self.next()) is not None:
            messages.append(message)
        return messages


@asynccontextmanager
async def reading(site: Site, path: str, **headers: str) -> AsyncIterator[Reader]:
    async with site.session.get(site.url + path, headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        yield Reader(response)


def kinds(messages: list[Any]) -> list[str]:
    return [next(key for key in message["event"] if key not in ("time", "attempt")) for message in messages]


async def test_a_stream_tells_the_history_then_what_comes_and_ends_with_the_job(
    site: Site, yard: Yard, running: Tell
) -> None:
    job = await running(until=20)

    async with reading(site, f"/api/jobs/{job.id}/events") as reader:
        told = [await reader.next() for _ in range(10)]
        await yard.report(job.id, LogLine(level="INFO", text="still here"))
        assert (await reader.next())["event"]["log_line"]["text"] == "still here"
        await yard.succeed(job.id)
        rest = await reader.rest()

    assert kinds(told)[:4] == ["state_change", "state_change", "state_change", "phase_change"]
    assert "step_metrics" in kinds(told)
    assert rest[-1]["event"]["state_change"]["state"] == "SUCCEEDED"


async def test_a_stream_resumes_after_the_last_id_without_loss_or_repetition(
    site: Site, yard: Yard, running: Tell
) -> None:
    job = await running(until=400)
    await yard.succeed(job.id)
    async with reading(site, f"/api/jobs/{job.id}/events") as reader:
        whole = await reader.rest()
    async with reading(site, f"/api/jobs/{job.id}/events") as reader:
        begun = [await reader.next() for _ in range(17)]
        place = reader.id

    async with reading(site, f"/api/jobs/{job.id}/events", **{"Last-Event-ID": place}) as reader:
        by_header = await reader.rest()
    async with reading(site, f"/api/jobs/{job.id}/events?cursor={place}") as reader:
        by_cursor = await reader.rest()

    assert begun + by_header == whole
    assert begun + by_cursor == whole
    assert whole[-1]["cursor"] != place


async def test_after_the_last_event_of_an_ended_job_there_is_no_content(site: Site, yard: Yard) -> None:
    job = await yard.create()
    await yard.jobs.cancel(job.id)
    async with reading(site, f"/api/jobs/{job.id}/events") as reader:
        await reader.rest()
        place = reader.id or (await site.json(f"/api/jobs/{job.id}"))["name"]

    async with site.session.get(f"{site.url}/api/jobs/{job.id}/events?cursor={place}") as response:
        assert response.status == 204


async def test_only_the_kinds_asked_for_come(site: Site, yard: Yard, running: Tell) -> None:
    job = await running(until=400)
    await yard.fail(job.id, Failure(failure_class="user", cause="NaN", next_step="lower the learning rate"))

    async with reading(site, f"/api/jobs/{job.id}/events?kinds=EVALUATION&kinds=STATE_CHANGE") as reader:
        told = await reader.rest()

    assert set(kinds(told)) == {"evaluation", "state_change"}
    assert told[-1]["event"]["state_change"]["failure"]["cause"] == "NaN"


async def test_a_history_without_waiting(site: Site, running: Tell) -> None:
    job = await running(until=40)

    async with reading(site, f"/api/jobs/{job.id}/events?history_only=true") as reader:
        assert len(await reader.rest()) >= 8


async def test_a_long_history_is_thinned_when_asked_and_resumes_where_it_ends(site: Site, yard: Yard) -> None:
    job = await yard.create(steps=50_000)
    await begin_training(yard, job, story(50_000, 20_000))
    path = f"/api/jobs/{job.id}/events?max_points=50"

    async with reading(site, f"{path}&history_only=true") as reader:
        told = await reader.rest()

    counts = {kind: kinds(told).count(kind) for kind in set(kinds(told))}
    assert counts["state_change"] == 3
    assert max(counts.values()) <= 50
    steps = [int(one["event"]["step_metrics"]["step"]) for one in told if "step_metrics" in one["event"]]
    assert (steps[0], steps[-1]) == (1, 20_000)
    assert steps == sorted(steps)
    async with reading(site, f"{path}&cursor={told[-1]['cursor']}") as reader:
        await yard.report(job.id, LogLine(level="INFO", text="next"))
        assert (await reader.next())["event"]["log_line"]["text"] == "next"


async def test_a_part_of_a_long_history_comes_in_more_detail(site: Site, yard: Yard) -> None:
    job = await yard.create(steps=50_000)
    await begin_training(yard, job, story(50_000, 20_000))
    path = f"/api/jobs/{job.id}/events?max_points=50&history_only=true&kinds=STEP_METRICS"
    async with reading(site, path) as reader:
        coarse = {steps(one): one["cursor"] for one in await reader.rest()}
    first, last = [step for step in coarse if step > 8_000][:2]

    part = path.replace("max_points=50", "max_points=200")
    async with reading(site, f"{part}&cursor={coarse[first]}&until={coarse[last]}") as reader:
        fine = [steps(one) for one in await reader.rest()]

    assert fine == list(range(first + 20, last + 1, 20))
    error = (await site.json(f"/api/jobs/{job.id}/events?until={coarse[last]}", status=400))["error"]
    assert "until: given without max_points and history_only=true" in error["message"]


def steps(message: Any) -> int:
    return int(message["event"]["step_metrics"]["step"])


async def test_a_loss_that_is_no_number_is_not_thinned_away(site: Site, yard: Yard) -> None:
    job = await yard.create(steps=50_000)
    told = story(50_000, 4_000)
    points = [(place, event) for place, event in enumerate(told) if isinstance(event, StepMetrics)]
    place, point = points[100]
    told[place] = dataclasses.replace(point, loss=math.nan)
    await begin_training(yard, job, told)

    async with reading(site, f"/api/jobs/{job.id}/events?max_points=20&history_only=true") as reader:
        losses = [m["event"]["step_metrics"]["loss"] for m in await reader.rest() if "step_metrics" in m["event"]]

    assert len(losses) <= 20
    assert losses.count("NaN") == 1


@pytest.mark.parametrize("cursor", ["ffff.000000000000", "garbage", "1.ffffffffffff"])
async def test_a_cursor_of_something_else_is_refused(site: Site, yard: Yard, cursor: str) -> None:
    job = await yard.create()

    error = (await site.json(f"/api/jobs/{job.id}/events?cursor={cursor}", status=416))["error"]

    assert error["reason"] == "CURSOR_OUT_OF_RANGE"


async def test_the_list_is_told_whole_and_then_what_changes(site: Site, yard: Yard, running: Tell) -> None:
    first = await running(until=100)

    async with reading(site, "/api/jobs?watch=true") as reader:
        page = await reader.next()
        second = await yard.create(name="later")
        changed = await reader.next()
        await yard.jobs.cancel(second.id)
        ended = await reader.next()

    assert [job["name"] for job in page["training_jobs"]] == [f"trainingJobs/{first.id}"]
    assert [job["name"] for job in changed["training_jobs"]] == [f"trainingJobs/{second.id}"]
    assert [job["state"] for job in ended["training_jobs"]] == ["CANCELLED"]


async def test_many_changes_of_one_job_are_told_as_it_is_last(site: Site, yard: Yard, running: Tell) -> None:
    job = await running(until=20)
    async with reading(site, "/api/jobs?watch=true") as reader:
        await reader.next()
        for step in range(40, 1001, 20):
            await yard.report(job.id, [e for e in story(1000, step) if e.kind == "step_metrics"][-1])
        messages = 0
        while True:
            messages += 1
            if int((await reader.next())["training_jobs"][0]["progress"]["step"]) == 1000:
                break

    assert messages <= 30


async def test_streams_end_when_the_service_stops(site: Site, yard: Yard, running: Tell) -> None:
    job = await running(until=20)
    async with (
        reading(site, f"/api/jobs/{job.id}/events") as one,
        reading(site, "/api/jobs?watch=true") as other,
    ):
        await other.next()
        yard.notices.close()
        await one.rest()
        assert await other.rest() == []


async def test_a_reader_that_goes_away_leaves_nothing_waiting(site: Site, yard: Yard, running: Tell) -> None:
    job = await running(until=20)
    async with reading(site, f"/api/jobs/{job.id}/events") as reader:
        await reader.next()
    async with reading(site, "/api/jobs?watch=true") as reader:
        await reader.next()

    await yard.report(job.id, LogLine(level="INFO", text="anyone?"))
    await yard.report(job.id, LogLine(level="INFO", text="no"))
    async with asyncio.timeout(SECONDS):
        while yard.notices.waiting():
            await yard.report(job.id, LogLine(level="INFO", text="no"))

"""The dashboard's JSON: the messages of batchyard.v1 in protobuf's JSON mapping.

Each handler converts, calls once and converts back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from aiohttp import web
from google.protobuf.message import Message

from batchyard.control import names
from batchyard.control.jobs import EventPage, Jobs
from batchyard.control.listing import ORDERS, Listing
from batchyard.control.records import Job, StoredEvent
from batchyard.control.registry import Registry
from batchyard.control.rpc import convert
from batchyard.control.web.query import Query
from batchyard.control.web.stream import EventStream, to_json
from batchyard.endpoint.errors import FieldViolation, InvalidInputError, UnavailableError
from batchyard.v1 import models_pb2, training_pb2

CHANGES_SECONDS = 0.25
"""Between two messages of a list's changes: what changes more often is told as it is then."""

LOSSES = 40
MOST_JOBS = 100
"""Of one look at the courses of losses."""


class Api:
    """Reads jobs and models; changes nothing."""

    def __init__(self, jobs: Jobs, registry: Registry) -> None:
        self._jobs = jobs
        self._registry = registry

    async def healthz(self, request: web.Request) -> web.Response:
        """200 while the database answers."""
        await self._jobs.list(page_size=1)
        return web.json_response({"status": "SERVING"})

    async def jobs(self, request: web.Request) -> web.StreamResponse:
        """ListTrainingJobsResponse; with watch=true a stream of them: the first page, then whatever changes
        of all jobs.
        """
        query = Query(request, "page_size", "page_token", "states", "search", "sort", "rising", "watch")
        listing = _listing(query)
        size, token = query.integer("page_size", 0), query.text("page_token")
        if query.flag("watch"):
            return await self._watch_jobs(request, size, token, listing)
        page = await self._jobs.list(size, token, listing)
        return answer(_job_list(page.jobs, page.next_page_token))

    async def _watch_jobs(self, request: web.Request, size: int, token: str, listing: Listing) -> web.StreamResponse:
        with self._jobs.changes() as changes:  # begun before the page is read, so that nothing falls between
            page = await self._jobs.list(size, token, listing)
            stream = EventStream(request)
            with contextlib.suppress(ConnectionResetError, UnavailableError):
                await stream.open()
                await stream.send([("", _job_list(page.jobs, page.next_page_token))])
                while True:
                    changed = await stream.alive_until(changes.next())
                    await stream.send([("", _job_list(changed, ""))])
                    await asyncio.sleep(CHANGES_SECONDS)
            return await end(stream)

    async def losses(self, request: web.Request) -> web.Response:
        """Job id -> the course of its loss in at most LOSSES numbers, null for what is not a finite one."""
        ids = Query(request, "jobs").texts("jobs")
        if not 1 <= len(ids) <= MOST_JOBS:
            problem = f"{len(ids)} given; expected 1 to {MOST_JOBS} ids of jobs"
            raise InvalidInputError([FieldViolation("jobs", problem)])
        return web.json_response({"losses": await self._jobs.losses(ids, LOSSES)})

    async def counts(self, request: web.Request) -> web.Response:
        """State -> how many jobs a search finds in it."""
        found = await self._jobs.counts(Query(request, "search").text("search"))
        return web.json_response({"counts": {state.value: count for state, count in found.items()}})

    async def job(self, request: web.Request) -> web.Response:
        """TrainingJob."""
        Query(request)
        return answer(convert.training_job(await self._jobs.get(job_id(request))))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """A stream of WatchTrainingJobResponse, as TrainingService.WatchTrainingJob gives it.

        Every message has its cursor as id. 204 says that no event will ever follow: a browser's EventSource then stops.
        With max_points a long history is thinned (thinning.py); new events all come. With until, a cursor, too, that
        part of the history alone is thinned and sent.
        """
        query = Query(request, "cursor", "kinds", "max_points", "history_only", "until")
        job, kinds = job_id(request), convert.event_kinds(query.enums("kinds", training_pb2.EventKind.DESCRIPTOR))
        most, history_only = query.integer("max_points", 0), query.flag("history_only")
        cursor, until = request.headers.get("Last-Event-ID") or query.text("cursor"), query.text("until")
        if until and not (most and history_only):
            problem = "given without max_points and history_only=true: it is the end of a part of the history"
            raise InvalidInputError([FieldViolation("until", problem)])
        if most:
            page = await self._jobs.thinned_history(job, cursor, kinds, most, until)
        else:
            page = await self._jobs.events_after(job, cursor, kinds)
        if page.ended and not page.events:
            return web.Response(status=204)
        stream = EventStream(request)
        with contextlib.suppress(ConnectionResetError, UnavailableError):
            await stream.open()
            page = await self._send_history(stream, job, page, kinds)
            while not (page.ended or history_only):
                await stream.alive_until(self._jobs.wait_for_events(job, page.cursor))
                page = await self._send_page(stream, job, page.cursor, kinds)
        return await end(stream)

    async def _send_history(self, stream: EventStream, job: str, page: EventPage, kinds: list[str]) -> EventPage:
        """Sends what is stored, from `page` on; returns the last page."""
        await stream.send(_events(page.events))
        while page.more:
            page = await self._send_page(stream, job, page.cursor, kinds)
        return page

    async def _send_page(self, stream: EventStream, job: str, cursor: str, kinds: list[str]) -> EventPage:
        page = await self._jobs.events_after(job, cursor, kinds)
        await stream.send(_events(page.events))
        return page

    async def models(self, request: web.Request) -> web.Response:
        """ListModelsResponse."""
        query = Query(request, "page_size", "page_token")
        page = await self._registry.list_models(query.integer("page_size", 0), query.text("page_token"))
        models = [convert.model(model) for model in page.models]
        return answer(models_pb2.ListModelsResponse(models=models, next_page_token=page.next_page_token))

    async def model(self, request: web.Request) -> web.Response:
        """Model."""
        Query(request)
        return answer(convert.model(await self._registry.get_model(_model_name(request))))

    async def versions(self, request: web.Request) -> web.Response:
        """ListModelVersionsResponse."""
        query = Query(request, "page_size", "page_token")
        size, token = query.integer("page_size", 0), query.text("page_token")
        page = await self._registry.list_versions(_model_name(request), size, token)
        versions = [convert.model_version(version) for version in page.versions]
        return answer(
            models_pb2.ListModelVersionsResponse(model_versions=versions, next_page_token=page.next_page_token)
        )

    async def version(self, request: web.Request) -> web.Response:
        """ModelVersion."""
        Query(request)
        name = f"{names.model(request.match_info['model'])}/versions/{request.match_info['version']}"
        return answer(convert.model_version(await self._registry.get_version(*names.parse_version(name))))


def job_id(request: web.Request) -> str:
    """The job that the path names. Raises InvalidInputError."""
    return names.parse_job(names.job(request.match_info["job"]))


def _listing(query: Query) -> Listing:
    return Listing(
        states=convert.states(query.enums("states", training_pb2.TrainingJob.State.DESCRIPTOR)),
        search=query.text("search"),
        order=query.choice("sort", ORDERS),
        rising=query.flag("rising"),
    )


def _model_name(request: web.Request) -> str:
    return names.parse_model(names.model(request.match_info["model"]))


def _job_list(jobs: Iterable[Job], next_page_token: str) -> training_pb2.ListTrainingJobsResponse:
    listed = [convert.training_job(job) for job in jobs]
    return training_pb2.ListTrainingJobsResponse(training_jobs=listed, next_page_token=next_page_token)


def _events(stored: Iterable[StoredEvent]) -> Iterable[tuple[str, Message]]:
    return ((one.cursor, convert.watch_response(one)) for one in stored)


def answer(message: Message) -> web.Response:
    """A message as the whole answer."""
    return web.Response(text=to_json(message, indent=2) + "\n", content_type="application/json")


async def end(stream: EventStream) -> web.StreamResponse:
    """Ends a stream whose reader may have gone away already."""
    with contextlib.suppress(ConnectionResetError):
        await stream.close()
    return stream.response

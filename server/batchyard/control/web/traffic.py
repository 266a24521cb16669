"""What the inference plane is asked, as messages: the last hour in as few points as a chart shows, then what comes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable

from aiohttp import web

from batchyard.control.rpc.convert import timestamp
from batchyard.control.traffic import samples
from batchyard.control.traffic.history import Point
from batchyard.control.traffic.samples import Counted, Key, VersionSample
from batchyard.control.traffic.watch import SECONDS, TrafficWatch
from batchyard.control.web.api import answer, end
from batchyard.control.web.query import Query
from batchyard.control.web.stream import EventStream
from batchyard.endpoint.errors import FieldViolation, InvalidInputError, UnavailableError
from batchyard.v1 import traffic_pb2 as pb

SHORTEST, LONGEST, USUAL = 60, 3600, 900
"""Seconds that one may look back."""
MOST_POINTS = 300


class TrafficApi:
    """GET /api/serving."""

    def __init__(self, watch: TrafficWatch) -> None:
        self._watch = watch

    def routes(self) -> list[web.RouteDef]:
        """Its one route."""
        return [web.get("/api/serving", self.traffic)]

    async def traffic(self, request: web.Request) -> web.StreamResponse:
        """ServingTraffic of the last `seconds`; with watch=true a stream of them: first that, then every new point."""
        query = Query(request, "seconds", "watch")
        seconds = query.integer("seconds", USUAL)
        if not SHORTEST <= seconds <= LONGEST:
            problem = f"{seconds} given; expected {SHORTEST} to {LONGEST}"
            raise InvalidInputError([FieldViolation("seconds", problem)])
        if not query.flag("watch"):
            return answer(self._message(seconds, 0))
        stream = EventStream(request)
        with contextlib.suppress(ConnectionResetError, UnavailableError):
            await stream.open()
            told, said = 0, None
            while True:
                position = self._watch.position
                message = self._message(seconds, told)
                told = self._watch.history.number
                if message.points or said != message.problem:
                    await stream.send([("", message)])
                said = message.problem
                await stream.alive_until(self._watch.wait(position))
        return await end(stream)

    def _message(self, seconds: int, after: int) -> pb.ServingTraffic:
        history = self._watch.history
        stride = math.ceil(seconds / SECONDS / MOST_POINTS)
        points = list(history.points(seconds, stride, after))
        bounds = {} if history.newest is None else history.newest.bounds
        return _message(points, self._watch.problem, bounds.get(samples.BATCHES, ()))


def _message(points: list[Point], problem: str, batch_bounds: Iterable[float]) -> pb.ServingTraffic:
    keys = sorted({key for point in points for key in point.versions}, key=_order)
    layers = {key: list(v.layers) for point in points for key, v in point.sample.versions.items()}
    places = {key: place for place, key in enumerate(keys)}
    return pb.ServingTraffic(
        problem=problem,
        versions=[pb.ServingTraffic.Version(model=k[0], number=k[1], layers=layers.get(k, ())) for k in keys],
        batch_bounds=[bound for bound in batch_bounds if not math.isinf(bound)],
        points=[_point(point, places, layers) for point in points],
    )


def _order(key: Key) -> tuple[str, int]:
    return key[0], int(key[1]) if key[1].isdecimal() else 0


def _point(point: Point, places: dict[Key, int], layers: dict[Key, list[str]]) -> pb.TrafficPoint:
    bounds = point.sample.bounds
    versions = []
    for key, counted in point.versions.items():
        message = _version(counted, point.seconds, bounds)
        message.version = places[key]
        _add_state(message, point.sample.versions.get(key), layers.get(key, []))
        versions.append(message)
    whole = _version(samples.total(list(point.versions.values())), point.seconds, bounds)
    whole.queued_rows = sum(version.queued_rows for version in versions)
    return pb.TrafficPoint(time=timestamp(point.time), seconds=point.seconds, total=whole, versions=versions)


def _version(counted: Counted, seconds: float, bounds: samples.Bounds) -> pb.VersionTraffic:
    refused = {n.removeprefix(samples.REFUSED): v[0] for n, v in counted.items() if n.startswith(samples.REFUSED)}
    return pb.VersionTraffic(
        requests_per_second=sum(counted.get(samples.REQUESTS, ())) / seconds,
        rows_per_second=sum(counted.get(samples.ROWS, ())) / seconds,
        refused_per_second={code: count / seconds for code, count in refused.items() if count},
        latency=_quantiles(samples.LATENCY, counted, bounds),
        queue=_quantiles(samples.QUEUE, counted, bounds),
        batches=counted.get(samples.BATCHES, ()),
    )


def _add_state(message: pb.VersionTraffic, sample: VersionSample | None, layers: list[str]) -> None:
    if sample is None:
        return
    message.queued_rows = sample.queued_rows
    if sample.shift is not None:
        message.shift = sample.shift
    message.layer_shifts.extend(sample.layers.get(layer, math.nan) for layer in layers)


def _quantiles(histogram: str, counted: Counted, bounds: samples.Bounds) -> pb.Quantiles | None:
    counts = counted.get(histogram, ())
    if not any(counts):
        return None
    p50, p95, p99 = (samples.quantile(share, counts, bounds[histogram]) for share in (0.5, 0.95, 0.99))
    return pb.Quantiles(p50=p50, p95=p95, p99=p99)

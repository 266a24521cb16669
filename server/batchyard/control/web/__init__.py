"""The dashboard and its JSON: what the page at / asks for, and /healthz and /metrics for machines."""

from __future__ import annotations

from aiohttp import web

from batchyard.control.web.actions import Actions
from batchyard.control.web.api import Api
from batchyard.control.web.assets import Assets, protect
from batchyard.control.web.errors import answer_errors
from batchyard.control.web.models import ModelsApi
from batchyard.control.web.other_pages import refuse_other_pages
from batchyard.control.web.queue import QueueApi
from batchyard.control.web.sources import Sources
from batchyard.control.web.traffic import TrafficApi
from batchyard.endpoint.security import Security

__all__ = ["Sources", "add_routes"]


TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


def add_routes(app: web.Application, sources: Sources, security: Security) -> None:
    """Adds the dashboard, its API, /healthz and /metrics to an application that has not started yet.

    Whether a request bears the token is for the application's own middleware to see (endpoint/security.py).
    """
    api = Api(sources.jobs, sources.registry)

    async def render_metrics(_: web.Request) -> web.Response:
        return web.Response(body=sources.metrics.render(), headers={"Content-Type": TEXT_FORMAT})

    app.middlewares.extend([answer_errors, refuse_other_pages(security)])
    app.on_response_prepare.append(protect)
    app.add_routes(Assets().routes())
    app.add_routes(Actions(sources.jobs).routes())
    app.add_routes(QueueApi(sources.jobs, sources.explaining).routes())
    app.add_routes(ModelsApi(sources.registry, sources.inference, sources.recalibration).routes())
    app.add_routes(TrafficApi(sources.traffic).routes())
    app.add_routes(
        [
            web.get("/healthz", api.healthz),
            web.get("/metrics", render_metrics),
            web.get("/api/jobs", api.jobs),
            web.get("/api/losses", api.losses),
            web.get("/api/counts", api.counts),
            web.get("/api/jobs/{job}", api.job),
            web.get("/api/jobs/{job}/events", api.events),
            web.get("/api/models", api.models),
            web.get("/api/models/{model}", api.model),
            web.get("/api/models/{model}/versions", api.versions),
            web.get("/api/models/{model}/versions/{version}", api.version),
        ]
    )

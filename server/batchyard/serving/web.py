"""HTTP of the inference plane: /metrics for Prometheus, /healthz for probes."""

from __future__ import annotations

from aiohttp import web

from batchyard.endpoint.security import Security, web_middleware
from batchyard.serving.metrics import Metrics
from batchyard.serving.repository import Repository
from batchyard.serving.settings import SettingsError

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


class Web:
    """The HTTP site."""

    def __init__(self, metrics: Metrics, repository: Repository, security: Security) -> None:
        self._metrics = metrics
        self._repository = repository
        self._security = security
        self._runner: web.AppRunner | None = None

    async def start(self, address: str) -> str:
        """Binds HOST:PORT and returns it with the port that it got. Raises SettingsError when it is taken."""
        app = web.Application(middlewares=[web_middleware(self._security, open_paths=("/healthz",))])
        app.router.add_get("/metrics", self._render_metrics)
        app.router.add_get("/healthz", self._health)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        await self._runner.setup()
        host, _, port = address.rpartition(":")
        site = web.TCPSite(self._runner, host.strip("[]"), int(port), ssl_context=self._security.ssl_context())
        try:
            await site.start()
        except OSError as error:
            raise SettingsError(f"--http {address} cannot be bound: {error.strerror}") from error
        return f"{host}:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Closes the site."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _render_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": TEXT_FORMAT})

    async def _health(self, request: web.Request) -> web.Response:
        state = {"serving": self._repository.informed, "all_models_ready": self._repository.ready}
        return web.json_response(state, status=200 if state["serving"] else 503)

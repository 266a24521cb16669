"""The control plane's HTTP server: the dashboard, its JSON, /metrics, /healthz."""

from __future__ import annotations

import os

from aiohttp import web

from batchyard.control.settings import SettingsError
from batchyard.control.web import Sources, add_routes
from batchyard.endpoint.security import Security, web_middleware

STOP_SECONDS = 3.0
"""For requests in flight; streams have been told to end before."""


class HttpServer:
    """Answers from `start` on."""

    def __init__(self, sources: Sources, security: Security) -> None:
        self._security = security
        app = web.Application(middlewares=[web_middleware(security)])
        add_routes(app, sources, security)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_SECONDS)

    async def start(self, address: str) -> str:
        """Binds HOST:PORT and returns it with the port that it got. Raises SettingsError when it is taken."""
        await self._runner.setup()
        host, _, port = address.rpartition(":")
        site = web.TCPSite(self._runner, host.strip("[]"), int(port), ssl_context=self._security.ssl_context())
        try:
            await site.start()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else "it cannot be used"
            raise SettingsError(f"--http {address} cannot be bound: {reason}; choose another address") from error
        return f"{host}:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Ends what is in flight and closes the port."""
        await self._runner.cleanup()

"""Keeps web pages of elsewhere from changing anything through the browser of somebody who may.

Where the service asks for a token, no other page has it. Where it asks for none, being on this machine is what lets a
user in, and every page in the user's browser is on this machine, too. So what changes something must

- bear the header Batchyard-Request, which a page of another origin may send only after a preflight
  (https://fetch.spec.whatwg.org/#cors-preflight-fetch), and none is ever granted here;
- come from a page of this very host where it names one (Origin);
- be addressed to an IP address or to localhost: a name may be one that another page's owner has pointed here (DNS
  rebinding), which makes that page one of this host.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from batchyard.endpoint.errors import ForbiddenError
from batchyard.endpoint.security import Security

HEADER = "Batchyard-Request"
"""Any value will do but none."""

HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})


def refuse_other_pages(security: Security) -> Any:
    """Middleware for aiohttp: raises ForbiddenError for a request that another page may have sent."""

    @web.middleware
    async def guard(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
        if security.token is None and request.method not in HARMLESS:
            _check(request)
        return await handler(request)

    return guard


def _check(request: web.Request) -> None:
    if not _is_address(request.host):
        message = (
            f"addressed to {request.host[:80]!r}: a service without a token is changed by address (127.0.0.1) only"
        )
        raise ForbiddenError(f"{message} or as localhost; or give it a --token-file", reason="HOST_NOT_LOCAL")
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2].lower() != request.host.lower():
        message = f"sent by a page of {origin[:80]!r}: only this service's own page may change anything here"
        raise ForbiddenError(message, reason="OTHER_ORIGIN")
    if not request.headers.get(HEADER):
        message = f"{request.method} must bear a header that no other web page can send: add '{HEADER}: 1'"
        raise ForbiddenError(message, reason="HEADER_REQUIRED")


def _is_address(host: str) -> bool:
    """Whether a Host header names an IP address or localhost, with a port or without."""
    name, colon, port = host.rpartition(":")
    if not (colon and port.isdigit()):
        name = host
    if name.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True

"""The page's own files, and the headers that keep everything else out of it."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

FOLDER = Path(__file__).parent / "static"

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    "": "text/plain; charset=utf-8",
}
"""By suffix; a file of any other kind does not belong here."""

SMALLEST_TO_COMPRESS = 1024

PRELOADS = b"  <!-- modules -->\n"
"""In the page: where its scripts are named, so that a browser asks for all of them at once and not level by level of
their imports.
"""

# Everything comes from this service; nothing may parse text as markup or code (trusted types), frame the page, or be
# posted from it.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


async def protect(_: web.Request, response: web.StreamResponse) -> None:
    """Adds the headers to every answer, refusals included; what is not an asset is never stored."""
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")


@dataclass(frozen=True)
class Asset:
    """A file as it is served."""

    body: bytes
    packed: bytes | None
    """With gzip, where that pays."""
    content_type: str
    etag: str


class Assets:
    """Every file of the page, read once: no request can name a path that is not among them."""

    def __init__(self, folder: Path = FOLDER) -> None:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        found = {path.relative_to(folder).as_posix(): path for path in files}
        bodies = {name: path.read_bytes() for name, path in found.items()}
        bodies["index.html"] = bodies["index.html"].replace(PRELOADS, _preloads(bodies))
        self._assets = {name: _asset(bodies[name], TYPES[path.suffix]) for name, path in found.items()}

    def routes(self) -> list[web.RouteDef]:
        """/ and /static/..."""
        return [web.get("/", self._index), web.get("/static/{path:.+}", self._file)]

    async def _index(self, request: web.Request) -> web.Response:
        return self._answer(request, "index.html")

    async def _file(self, request: web.Request) -> web.Response:
        return self._answer(request, request.match_info["path"])

    def _answer(self, request: web.Request, path: str) -> web.Response:
        asset = self._assets.get(path)
        if asset is None:
            raise web.HTTPNotFound
        headers = {"Content-Type": asset.content_type, "ETag": asset.etag, "Cache-Control": "no-cache"}
        if asset.packed is not None:
            headers["Vary"] = "Accept-Encoding"
        if request.headers.get("If-None-Match") == asset.etag:
            return web.Response(status=304, headers=headers)
        if asset.packed is not None and "gzip" in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=asset.packed, headers=headers | {"Content-Encoding": "gzip"})
        return web.Response(body=asset.body, headers=headers)


def _preloads(names: Iterable[str]) -> bytes:
    scripts = (name for name in names if name.startswith("js/"))
    return "".join(f'  <link rel="modulepreload" href="/static/{name}">\n' for name in scripts).encode()


def _asset(body: bytes, content_type: str) -> Asset:
    pays = content_type != TYPES[".woff2"] and len(body) >= SMALLEST_TO_COMPRESS
    packed = gzip.compress(body, mtime=0) if pays else None
    return Asset(body, packed, content_type, f'"{hashlib.sha256(body).hexdigest()[:20]}"')

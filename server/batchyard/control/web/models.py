"""What the page may ask of models: point an alias at a version, recalibrate, try one out."""

from __future__ import annotations

from aiohttp import web

from batchyard.control import names
from batchyard.control.inference_calls import InferenceCalls, check_pixels
from batchyard.control.recalibration import Recalibration
from batchyard.control.records import ModelVersion
from batchyard.control.registry import Registry
from batchyard.control.rpc import convert
from batchyard.control.web.api import answer
from batchyard.control.web.query import Query

PRIOR = 16
"""Samples that the old statistics count as, where nothing is said."""
VERSION = "/api/models/{model}/versions/{version}"


class ModelsApi:
    """Deploys, recalibrates and tries versions."""

    def __init__(self, registry: Registry, calls: InferenceCalls, recalibration: Recalibration) -> None:
        self._registry = registry
        self._calls = calls
        self._recalibration = recalibration

    def routes(self) -> list[web.RouteDef]:
        """POST .../aliases/{alias}, .../recalibrate and .../predict; GET .../engines."""
        return [
            web.post("/api/models/{model}/aliases/{alias}", self.set_alias),
            web.post(f"{VERSION}/recalibrate", self.recalibrate),
            web.post(f"{VERSION}/predict", self.predict),
            web.get(f"{VERSION}/engines", self.engines),
        ]

    async def set_alias(self, request: web.Request) -> web.Response:
        """As ModelService.SetAlias: the Model."""
        version = Query(request, "version").integer("version", 0)
        model = names.parse_model(names.model(request.match_info["model"]))
        return answer(convert.model(await self._registry.set_alias(model, request.match_info["alias"], version)))

    async def recalibrate(self, request: web.Request) -> web.Response:
        """As ModelService.RecalibrateModel, with the newest inputs that the inference plane has sampled."""
        prior = Query(request, "prior").integer("prior", PRIOR)
        version = await self._version(request)
        inputs = await self._calls.sampled_inputs(version)
        made = await self._recalibration.recalibrate(version.model, version.number, float(prior), inputs)
        return answer(convert.model_version(made))

    async def predict(self, request: web.Request) -> web.Response:
        """The classes of one picture, the most probable first. The body: raw UINT8 pixels [channels, height, width]."""
        Query(request)
        version = await self._version(request)
        check_pixels(version, request.content_length or 0)  # before anything is read
        found = await self._calls.predict(version, await request.read())
        labels = version.manifest.classes
        ranked = sorted(range(len(found.probabilities)), key=lambda c: -found.probabilities[c])
        classes = [{"class": c, "label": labels[c], "probability": found.probabilities[c]} for c in ranked]
        return web.json_response({"classes": classes, "seconds": found.seconds})

    async def engines(self, request: web.Request) -> web.Response:
        """What was measured of each engine on the inference plane's machine, and which of them serve."""
        Query(request)
        return web.json_response(await self._calls.engines(await self._version(request)))

    async def _version(self, request: web.Request) -> ModelVersion:
        name = f"{names.model(request.match_info['model'])}/versions/{request.match_info['version']}"
        return await self._registry.get_version(*names.parse_version(name))

"""ModelService: see proto/batchyard/v1/models.proto."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from batchyard.control import names
from batchyard.control.exchange import Exchange
from batchyard.control.recalibration import Recalibration
from batchyard.control.registry import Registry
from batchyard.control.rpc import convert, convert_exchange, convert_upload
from batchyard.v1 import exchange_pb2, models_pb2_grpc, recalibration_pb2
from batchyard.v1 import models_pb2 as pb


class ModelServicer(models_pb2_grpc.ModelServiceServicer):
    """Each method converts, calls once and converts back."""

    def __init__(self, registry: Registry, exchange: Exchange, recalibration: Recalibration) -> None:
        self._registry = registry
        self._exchange = exchange
        self._recalibration = recalibration

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.Model:  # noqa: N802, D102
        return convert.model(await self._registry.get_model(names.parse_model(request.name)))

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:  # noqa: N802, D102
        page = await self._registry.list_models(request.page_size, request.page_token)
        models = [convert.model(model) for model in page.models]
        return pb.ListModelsResponse(models=models, next_page_token=page.next_page_token)

    async def GetModelVersion(self, request: pb.GetModelVersionRequest, context: Any) -> pb.ModelVersion:  # noqa: N802, D102
        return convert.model_version(await self._registry.get_version(*names.parse_version(request.name)))

    async def ListModelVersions(  # noqa: N802, D102
        self, request: pb.ListModelVersionsRequest, context: Any
    ) -> pb.ListModelVersionsResponse:
        model = names.parse_model(request.parent, "parent")
        page = await self._registry.list_versions(model, request.page_size, request.page_token)
        versions = [convert.model_version(version) for version in page.versions]
        return pb.ListModelVersionsResponse(model_versions=versions, next_page_token=page.next_page_token)

    async def SetAlias(self, request: pb.SetAliasRequest, context: Any) -> pb.Model:  # noqa: N802, D102
        model = names.parse_model(request.model, "model")
        return convert.model(await self._registry.set_alias(model, request.alias, request.version))

    async def DeleteAlias(self, request: pb.DeleteAliasRequest, context: Any) -> pb.Model:  # noqa: N802, D102
        model = names.parse_model(request.model, "model")
        return convert.model(await self._registry.delete_alias(model, request.alias))

    async def UpdateModel(self, request: pb.UpdateModelRequest, context: Any) -> pb.Model:  # noqa: N802, D102
        model = names.parse_model(request.model.name, "model.name")
        given = convert.mapping(request.model.serving_settings)
        return convert.model(await self._registry.set_serving_settings(model, given, request.update_mask.paths))

    async def ExportModelVersion(  # noqa: N802, D102
        self, request: exchange_pb2.ExportModelVersionRequest, context: Any
    ) -> AsyncIterator[exchange_pb2.ExportModelVersionResponse]:
        model, which = names.parse_version(request.name)
        async for part in self._exchange.export(model, which, convert_exchange.file_format(request.format)):
            yield convert_exchange.export_response(part)

    async def ImportModelVersion(  # noqa: N802, D102
        self, requests: AsyncIterator[exchange_pb2.ImportModelVersionRequest], context: Any
    ) -> pb.ModelVersion:
        spec = await convert_upload.import_spec(requests)
        network, parts = convert.mapping(spec.network), convert_upload.parts(requests)
        made = await self._exchange.import_version(spec.model, spec.alias, network, parts, spec.request_id)
        return convert.model_version(made)

    async def CreateEnsemble(self, request: exchange_pb2.CreateEnsembleRequest, context: Any) -> pb.ModelVersion:  # noqa: N802, D102
        members = [names.parse_version(member, f"members[{i}]") for i, member in enumerate(request.members)]
        made = await self._exchange.create_ensemble(request.model, request.alias, members, request.request_id)
        return convert.model_version(made)

    async def RecalibrateModel(  # noqa: N802, D102
        self, requests: AsyncIterator[recalibration_pb2.RecalibrateModelRequest], context: Any
    ) -> pb.ModelVersion:
        spec = await convert_upload.recalibration_spec(requests)
        model, which = names.parse_version(spec.name, "spec.name")
        parts = convert_upload.parts(requests)
        made = await self._recalibration.recalibrate(model, which, spec.prior, parts, spec.request_id)
        return convert.model_version(made)

    async def WatchServedModels(  # noqa: N802, D102
        self, request: pb.WatchServedModelsRequest, context: Any
    ) -> AsyncIterator[pb.WatchServedModelsResponse]:
        async for served in self._registry.watch_served():
            yield convert.served_models(served)

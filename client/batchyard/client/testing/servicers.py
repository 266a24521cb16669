"""The fake service's gRPC edge."""

# ruff: noqa: N802, D102 - methods bear the API's names

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from batchyard.client.events import ENDED
from batchyard.client.tensors import make_request, read_outputs
from batchyard.client.testing.details import abort, find, page_of
from batchyard.client.testing.holdings import Holdings
from batchyard.oip import messages
from batchyard.v1 import (
    exchange_pb2,
    lineage_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    shadow_pb2_grpc,
    shift_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)
from batchyard.v1.lineage_pb2 import Lineage
from batchyard.v1.models_pb2 import Model, ModelVersion
from batchyard.v1.shadow_pb2 import ShadowComparison
from batchyard.v1.shift_pb2 import ModelShift, SampledInputs
from batchyard.v1.training_pb2 import StateChange, TrainingJob, WatchTrainingJobResponse


class TrainingServicer(training_pb2_grpc.TrainingServiceServicer):
    """TrainingService over the fake's holdings."""

    def __init__(self, fake: Holdings) -> None:
        self._fake = fake

    def CreateTrainingJob(self, request: Any, context: Any) -> TrainingJob:
        self._fake.arrived("CreateTrainingJob", request, context)
        return self._fake.create(request)

    def GetTrainingJob(self, request: Any, context: Any) -> TrainingJob:
        self._fake.arrived("GetTrainingJob", request, context)
        return find(self._fake.jobs, request.name, context)

    def ListTrainingJobs(self, request: Any, context: Any) -> training_pb2.ListTrainingJobsResponse:
        self._fake.arrived("ListTrainingJobs", request, context)
        jobs = [job for job in self._fake.jobs.values() if not request.states or job.state in request.states]
        page, token = page_of(jobs[::-1], request)
        return training_pb2.ListTrainingJobsResponse(training_jobs=page, next_page_token=token)

    def CancelTrainingJob(self, request: Any, context: Any) -> TrainingJob:
        self._fake.arrived("CancelTrainingJob", request, context)
        job = find(self._fake.jobs, request.name, context)
        if job.state in (TrainingJob.SUCCEEDED, TrainingJob.FAILED):
            abort(context, grpc.StatusCode.FAILED_PRECONDITION, f"{request.name} has ended", reason="JOB_ENDED")
        if job.state not in ENDED:
            self._fake.emit(request.name, StateChange(state=TrainingJob.CANCELLED))
        return job

    def PauseTrainingJob(self, request: Any, context: Any) -> TrainingJob:
        self._fake.arrived("PauseTrainingJob", request, context)
        job = find(self._fake.jobs, request.name, context)
        if job.state in ENDED:
            abort(context, grpc.StatusCode.FAILED_PRECONDITION, f"{request.name} has ended", reason="JOB_ENDED")
        if job.state != TrainingJob.PAUSED:
            self._fake.emit(request.name, StateChange(state=TrainingJob.PAUSED))
        return job

    def ResumeTrainingJob(self, request: Any, context: Any) -> TrainingJob:
        self._fake.arrived("ResumeTrainingJob", request, context)
        job = find(self._fake.jobs, request.name, context)
        if job.state in ENDED:
            abort(context, grpc.StatusCode.FAILED_PRECONDITION, f"{request.name} has ended", reason="JOB_ENDED")
        if job.state == TrainingJob.PAUSED:
            self._fake.emit(request.name, StateChange(state=TrainingJob.QUEUED))
        return job

    def AnnotateTrainingJob(self, request: Any, context: Any) -> TrainingJob:
        """Takes any tag and any note."""
        self._fake.arrived("AnnotateTrainingJob", request, context)
        job = find(self._fake.jobs, request.name, context)
        tags = sorted({*job.tags, *request.add_tags} - {*request.remove_tags})
        job.tags[:] = tags
        if request.HasField("note"):
            job.note = request.note
        return job

    def ExplainTrainingJob(self, request: Any, context: Any) -> training_pb2.TrainingJobExplanation:
        self._fake.arrived("ExplainTrainingJob", request, context)
        job = find(self._fake.jobs, request.name, context)
        unknown = training_pb2.TrainingJobExplanation(name=job.name, state=job.state)
        return self._fake.explanations.get(request.name, unknown)

    def WatchTrainingJob(self, request: Any, context: Any) -> Iterator[WatchTrainingJobResponse]:
        self._fake.arrived("WatchTrainingJob", request, context)
        find(self._fake.jobs, request.name, context)
        return self._fake.stream(request, context)


class ModelsServicer(models_pb2_grpc.ModelServiceServicer):
    """ModelService over the fake's holdings."""

    def __init__(self, fake: Holdings) -> None:
        self._fake = fake

    def GetModel(self, request: Any, context: Any) -> Model:
        self._fake.arrived("GetModel", request, context)
        return find(self._fake.models, request.name, context)

    def ListModels(self, request: Any, context: Any) -> models_pb2.ListModelsResponse:
        self._fake.arrived("ListModels", request, context)
        page, token = page_of([model for _, model in sorted(self._fake.models.items())], request)
        return models_pb2.ListModelsResponse(models=page, next_page_token=token)

    def GetModelVersion(self, request: Any, context: Any) -> ModelVersion:
        self._fake.arrived("GetModelVersion", request, context)
        model, at, alias = request.name.partition("@")
        number = self._fake.models[model].aliases.get(alias, 0) if at and model in self._fake.models else 0
        return find(self._fake.versions, f"{model}/versions/{number}" if at else model, context)

    def ListModelVersions(self, request: Any, context: Any) -> models_pb2.ListModelVersionsResponse:
        self._fake.arrived("ListModelVersions", request, context)
        versions = [v for name, v in self._fake.versions.items() if name.startswith(f"{request.parent}/")]
        page, token = page_of(versions[::-1], request)
        return models_pb2.ListModelVersionsResponse(model_versions=page, next_page_token=token)

    def SetAlias(self, request: Any, context: Any) -> Model:
        self._fake.arrived("SetAlias", request, context)
        model = find(self._fake.models, request.model, context)
        find(self._fake.versions, f"{request.model}/versions/{request.version}", context)
        model.aliases[request.alias] = request.version
        return model

    def DeleteAlias(self, request: Any, context: Any) -> Model:
        self._fake.arrived("DeleteAlias", request, context)
        model = find(self._fake.models, request.model, context)
        if request.alias not in model.aliases:
            abort(context, grpc.StatusCode.NOT_FOUND, f"{request.model}@{request.alias} does not exist")
        del model.aliases[request.alias]
        return model

    def UpdateModel(self, request: Any, context: Any) -> Model:
        """Takes the named fields unchecked."""
        self._fake.arrived("UpdateModel", request, context)
        model = find(self._fake.models, request.model.name, context)
        for path in request.update_mask.paths:
            model.serving_settings.ClearField(path.partition(".")[2])
        model.serving_settings.MergeFrom(request.model.serving_settings)
        return model

    def RecalibrateModel(self, requests: Any, context: Any) -> ModelVersion:
        """The source's copy as the next version."""
        given = list(requests)
        self._fake.arrived("RecalibrateModel", given, context)
        spec = given[0].spec
        source = self.GetModelVersion(models_pb2.GetModelVersionRequest(name=spec.name), context)
        base, _, number = source.name.rpartition("/")
        version = ModelVersion()
        version.CopyFrom(source)
        version.name, version.origin = f"{base}/{int(number) + 1}", "recalibrated"
        version.sources[:] = [source.name]
        version.recalibration.prior = spec.prior
        self._fake.add_version(version)
        return version

    def ExportModelVersion(self, request: Any, context: Any) -> Iterator[exchange_pb2.ExportModelVersionResponse]:
        """UNIMPLEMENTED: there are no artifacts."""
        abort(context, grpc.StatusCode.UNIMPLEMENTED, "the fake service has no artifacts to export")

    def ImportModelVersion(self, request: Any, context: Any) -> ModelVersion:
        """UNIMPLEMENTED: nothing is folded here."""
        abort(context, grpc.StatusCode.UNIMPLEMENTED, "the fake service folds no networks")

    def CreateEnsemble(self, request: Any, context: Any) -> ModelVersion:
        """UNIMPLEMENTED: nothing is folded here."""
        abort(context, grpc.StatusCode.UNIMPLEMENTED, "the fake service folds no networks")

    def WatchServedModels(self, request: Any, context: Any) -> Iterator[models_pb2.WatchServedModelsResponse]:
        """UNIMPLEMENTED: inference planes follow the real thing."""
        abort(context, grpc.StatusCode.UNIMPLEMENTED, "the fake service has no inference planes")


class LineageServicer(lineage_pb2_grpc.LineageServiceServicer):
    """LineageService over the fake's holdings."""

    def __init__(self, fake: Holdings) -> None:
        self._fake = fake

    def GetLineage(self, request: Any, context: Any) -> Lineage:
        self._fake.arrived("GetLineage", request, context)
        return find(self._fake.lineages, request.name, context)


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """grpc.health.v1: always serving."""

    def Check(self, request: Any, context: Any) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


class ShiftServicer(shift_pb2_grpc.ShiftServiceServicer):
    """ShiftService over the fake's holdings."""

    def __init__(self, fake: Holdings) -> None:
        self._fake = fake

    def GetShift(self, request: Any, context: Any) -> ModelShift:
        self._fake.arrived("GetShift", request, context)
        return find(self._fake.shifts, request.model, context)

    def GetSampledInputs(self, request: Any, context: Any) -> SampledInputs:
        self._fake.arrived("GetSampledInputs", request, context)
        return find(self._fake.sampled, request.model, context)


class ShadowServicer(shadow_pb2_grpc.ShadowServiceServicer):
    """ShadowService over the fake's holdings."""

    def __init__(self, fake: Holdings) -> None:
        self._fake = fake

    def GetShadow(self, request: Any, context: Any) -> ShadowComparison:
        self._fake.arrived("GetShadow", request, context)
        return find(self._fake.shadows, request.model, context)


class InferenceServicer:
    """The Open Inference Protocol over the fake's holdings."""

    def __init__(self, fake: Holdings) -> None:
        self._fake = fake

    def ServerReady(self, request: Any, context: Any) -> messages.ServerReadyResponse:
        self._fake.arrived("ServerReady", request, context)
        return messages.ServerReadyResponse(ready=True)

    def ModelReady(self, request: Any, context: Any) -> messages.ModelReadyResponse:
        self._fake.arrived("ModelReady", request, context)
        return messages.ModelReadyResponse(ready=request.name in self._fake.functions)

    def ModelMetadata(self, request: Any, context: Any) -> messages.ModelMetadataResponse:
        self._fake.arrived("ModelMetadata", request, context)
        version = self._version(request.name, request.version, context)
        tensor = messages.ModelMetadataResponse.TensorMetadata
        return messages.ModelMetadataResponse(
            name=request.name,
            inputs=[tensor(name=t.name, datatype=t.datatype, shape=t.shape) for t in version.inputs],
            outputs=[tensor(name=t.name, datatype=t.datatype, shape=t.shape) for t in version.outputs],
        )

    def ModelConfig(self, request: Any, context: Any) -> messages.ModelConfigResponse:
        self._fake.arrived("ModelConfig", request, context)
        return messages.ModelConfigResponse(config=find(self._fake.configs, request.name.partition("@")[0], context))

    def ModelStatistics(self, request: Any, context: Any) -> messages.ModelStatisticsResponse:
        self._fake.arrived("ModelStatistics", request, context)
        counted = [each for name, each in self._fake.statistics.items() if request.name in ("", name)]
        return messages.ModelStatisticsResponse(model_stats=counted)

    def ModelInfer(self, request: Any, context: Any) -> messages.ModelInferResponse:
        self._fake.arrived("ModelInfer", request, context)
        version = self._version(request.model_name, request.model_version, context)
        given = messages.ModelInferResponse(raw_output_contents=request.raw_input_contents)
        for tensor in request.inputs:
            given.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        answer = self._fake.functions[request.model_name](next(iter(read_outputs(given).values())))
        packed = make_request(request.model_name, "", {version.outputs[0].name: answer})
        response = messages.ModelInferResponse(
            model_name=request.model_name, model_version=version.name.rpartition("/")[2]
        )
        response.raw_output_contents.extend(packed.raw_input_contents)
        for tensor in packed.inputs:
            response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        return response

    def _version(self, model: str, version: str, context: Any) -> ModelVersion:
        name = f"models/{model}"
        number = version or str(find(self._fake.models, name, context).latest_version)
        return find(self._fake.versions, f"{name}/versions/{number}", context)

"""The client: one object for both planes of a service."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import grpc.aio
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_health.v1 import health_pb2, health_pb2_grpc

from batchyard.client import errors
from batchyard.client.aio.calls import AsyncCaller
from batchyard.client.aio.exchange import AsyncExchange
from batchyard.client.aio.inference import AsyncInference
from batchyard.client.aio.waiting import in_thread
from batchyard.client.aio.watch import watch
from batchyard.client.channel import open_async_channel
from batchyard.client.events import Detail, Event
from batchyard.client.hints import CONTROL_HINTS, INFERENCE_HINTS
from batchyard.client.job_file import in_job_file, read_job
from batchyard.client.names import job_name, model_name
from batchyard.client.predictions import InferResult, Prediction
from batchyard.client.recalibration import recalibration_requests
from batchyard.client.settings import (
    DEFAULT_CONTROL,
    DEFAULT_INFERENCE,
    Settings,
    current_user,
    read_settings,
    read_token,
)
from batchyard.client.tensors import Array
from batchyard.client.watching import WatchOptions
from batchyard.v1 import models_pb2, training_pb2
from batchyard.v1.lineage_pb2 import GetLineageRequest, Lineage
from batchyard.v1.lineage_pb2_grpc import LineageServiceStub
from batchyard.v1.models_pb2 import Model, ModelVersion
from batchyard.v1.models_pb2_grpc import ModelServiceStub
from batchyard.v1.serving_pb2 import ServingSettings
from batchyard.v1.spec_pb2 import TrainingJobSpec
from batchyard.v1.training_pb2 import LogLine, StateChange, TrainingJob, TrainingJobExplanation
from batchyard.v1.training_pb2_grpc import TrainingServiceStub

_PAGE = 100


class AsyncClient:
    """Submits, follows and lists jobs and models, and asks models. Of one event loop; an asynchronous context manager.

    Jobs are named by id or trainingJobs/{id}; models by name or models/{name}. Every method that calls the service
    raises errors.RpcError; calls are repeated with back-off while the service is UNAVAILABLE.
    """

    def __init__(
        self,
        control: str = DEFAULT_CONTROL,
        inference: str = DEFAULT_INFERENCE,
        *,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        tls_ca: str | None = None,
        timeout: float = 30.0,
        retry_for: float = 10.0,
        user: str | None = None,
    ) -> None:
        """Connects at the first call.

        Args:
            control: host:port of the control plane.
            inference: host:port of an inference plane.
            token: bearer token, or
            token_file: a file that holds it and that only its owner may read.
            tls_ca: PEM file of the certificate authority to trust, or "system"; None: no TLS.
            timeout: seconds that one call may take, its retries included.
            retry_for: seconds for which an UNAVAILABLE service is tried again.
            user: who jobs are submitted for, which quotas count by; None: settings.current_user().

        Raises:
            ConfigurationError: one of these cannot be used.
        """
        if token is None and token_file is not None:
            token = read_token(token_file)
        settings = Settings(control=control, inference=inference, token=token, tls_ca=tls_ca)
        self.settings = settings
        self._channels: list[grpc.aio.Channel] = []

        def connect(
            address: str, peer: str, hints: dict[type[errors.RpcError], str], user: str = ""
        ) -> tuple[grpc.aio.Channel, AsyncCaller]:
            channel = open_async_channel(address, tls_ca)
            self._channels.append(channel)
            named = f"the {peer} at {address}"
            return channel, AsyncCaller(
                named, token=token, timeout=timeout, retry_for=retry_for, hints=hints, user=user
            )

        user = current_user() if user is None else user
        channel, self._control = connect(control, "control plane", CONTROL_HINTS, user)
        self._training, self._models = TrainingServiceStub(channel), ModelServiceStub(channel)
        self._lineages = LineageServiceStub(channel)
        self.exchange = AsyncExchange(self._models, self._control)
        """Export, import and ensembles of model versions."""
        self._health = health_pb2_grpc.HealthStub(channel)
        self.inference = AsyncInference(*connect(inference, "inference plane", INFERENCE_HINTS))

    @classmethod
    def from_environment(cls, **settings: Any) -> Self:
        """A client for the settings that the command line would use: see settings.read_settings."""
        found = read_settings(**settings)
        return cls(found.control, found.inference, token=found.token, tls_ca=found.tls_ca)

    async def close(self) -> None:
        """Ends both connections."""
        for channel in self._channels:
            await channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def healthy(self) -> bool:
        """Whether the control plane says that it serves."""
        response = await self._control(self._health.Check, health_pb2.HealthCheckRequest())
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    # Jobs

    async def submit(
        self,
        spec: TrainingJobSpec | Mapping[str, Any] | str | os.PathLike[str],
        *,
        request_id: str | None = None,
        overrides: Iterable[tuple[str, str]] = (),
        tags: Iterable[str] = (),
    ) -> TrainingJob:
        """Creates a job from a nested mapping, the path of a YAML file or YAML text, and returns it at once, QUEUED.

        Repeating a call whose outcome is not known with the same `request_id` cannot create a second job; one is made
        for the call and its retries when none is given. `overrides`: see job_file.read_job. `tags`: see annotate.

        Raises:
            JobFileError: unknown keys, or values of the wrong type.
            InvalidRequestError: values that the service refuses.
            AlreadyExistsError: `request_id` has made a job of another spec; `violations` names each key that differs
                and both values.
        """
        message = spec if isinstance(spec, TrainingJobSpec) else read_job(spec, overrides)
        once = request_id or str(uuid.uuid4())
        request = training_pb2.CreateTrainingJobRequest(spec=message, request_id=once, tags=tags)
        try:
            return await self._control(self._training.CreateTrainingJob, request)
        except errors.InvalidRequestError as error:
            raise in_job_file(error) from None

    async def job(self, name: str) -> TrainingJob:
        """One job as it is now."""
        return await self._control(
            self._training.GetTrainingJob, training_pb2.GetTrainingJobRequest(name=job_name(name))
        )

    def jobs(self, states: Iterable[TrainingJob.State.ValueType] = ()) -> AsyncIterator[TrainingJob]:
        """Every job, newest first, or those in one of `states`; pages are fetched as they are needed."""
        wanted = list(states)

        async def page(token: str) -> training_pb2.ListTrainingJobsResponse:
            request = training_pb2.ListTrainingJobsRequest(page_size=_PAGE, page_token=token, states=wanted)
            return await self._control(self._training.ListTrainingJobs, request)

        return _pages(page, lambda response: response.training_jobs)

    async def cancel(self, name: str) -> TrainingJob:
        """Asks a job to stop and returns at once. Raises PreconditionError if it has SUCCEEDED or FAILED."""
        request = training_pb2.CancelTrainingJobRequest(name=job_name(name))
        return await self._control(self._training.CancelTrainingJob, request)

    async def pause(self, name: str) -> TrainingJob:
        """Has a job write a checkpoint and free its workers; it is PAUSED when that is done, at once if it waited.

        Raises PreconditionError when it is being cancelled or has ended.
        """
        request = training_pb2.PauseTrainingJobRequest(name=job_name(name))
        return await self._control(self._training.PauseTrainingJob, request)

    async def resume(self, name: str) -> TrainingJob:
        """Has a PAUSED job go on from its checkpoint when its turn comes; one that waits or runs is left as it is.

        Raises PreconditionError when it is still PAUSING, is being cancelled or has ended.
        """
        request = training_pb2.ResumeTrainingJobRequest(name=job_name(name))
        return await self._control(self._training.ResumeTrainingJob, request)

    async def annotate(
        self, name: str, *, add_tags: Iterable[str] = (), remove_tags: Iterable[str] = (), note: str | None = None
    ) -> TrainingJob:
        """Adds tags to a job, takes others away, and sets its note unless that is None; whatever the job's state.

        Raises InvalidRequestError for tags or a note that are not legal.
        """
        request = training_pb2.AnnotateTrainingJobRequest(
            name=job_name(name), add_tags=add_tags, remove_tags=remove_tags, note=note
        )
        return await self._control(self._training.AnnotateTrainingJob, request)

    async def explain(self, name: str) -> TrainingJobExplanation:
        """Why a job is where it is: its place in the queue, its attempts, and what to do next."""
        request = training_pb2.ExplainTrainingJobRequest(name=job_name(name))
        return await self._control(self._training.ExplainTrainingJob, request)

    def watch(
        self,
        name: str,
        *,
        cursor: str = "",
        kinds: Sequence[type[Detail]] = (),
        history_only: bool = False,
        timeout: float | None = None,
        reconnect_for: float = 60.0,
    ) -> AsyncGenerator[Event, None]:
        """Every event of a job after `cursor`, in order, none lost or repeated, until it has ended.

        Args:
            name: the job.
            cursor: of the last event already seen; empty: from the beginning.
            kinds: only events whose detail is of these types; empty: all.
            history_only: end after the stored events.
            timeout: seconds; WaitTimeoutError after them.
            reconnect_for: seconds to go on trying when a service that has answered is gone.
        """
        options = WatchOptions(
            name=job_name(name),
            cursor=cursor,
            kinds=kinds,
            history_only=history_only,
            timeout=timeout,
            reconnect_for=reconnect_for,
        )
        return watch(self._training, self._control, options)

    async def wait(self, name: str, timeout: float | None = None) -> TrainingJob:
        """The job once it has ended, however it ended. Raises WaitTimeoutError after `timeout` seconds."""
        async for _ in self.watch(name, kinds=(StateChange,), timeout=timeout):
            pass
        return await self.job(name)

    def logs(self, name: str, *, follow: bool = False) -> AsyncGenerator[Event, None]:
        """The job's log lines: those stored, or with `follow` also those to come."""
        return self.watch(name, kinds=(LogLine,), history_only=not follow)

    # Models

    def models(self) -> AsyncIterator[Model]:
        """Every model, by name."""

        async def page(token: str) -> models_pb2.ListModelsResponse:
            request = models_pb2.ListModelsRequest(page_size=_PAGE, page_token=token)
            return await self._control(self._models.ListModels, request)

        return _pages(page, lambda response: response.models)

    async def model(self, name: str) -> Model:
        """One model with its aliases."""
        return await self._control(self._models.GetModel, models_pb2.GetModelRequest(name=model_name(name)))

    def versions(self, model: str) -> AsyncIterator[ModelVersion]:
        """Every version of a model, newest first."""

        async def page(token: str) -> models_pb2.ListModelVersionsResponse:
            request = models_pb2.ListModelVersionsRequest(parent=model_name(model), page_size=_PAGE, page_token=token)
            return await self._control(self._models.ListModelVersions, request)

        return _pages(page, lambda response: response.model_versions)

    async def version(self, name: str) -> ModelVersion:
        """One version, named models/{model}/versions/{n} or {model}@{alias}."""
        request = models_pb2.GetModelVersionRequest(name=model_name(name))
        return await self._control(self._models.GetModelVersion, request)

    async def lineage(self, version: str) -> Lineage:
        """Where a version comes from: certificate, checkpoint, job, spec, seed, code, data; and, where it was made from
        other versions, theirs. `version`: models/{model}/versions/{n} or {model}@{alias}.
        """
        return await self._control(self._lineages.GetLineage, GetLineageRequest(name=model_name(version)))

    async def set_alias(self, model: str, alias: str, version: int) -> Model:
        """Points an alias at a version; the inference planes follow at once."""
        request = models_pb2.SetAliasRequest(model=model_name(model), alias=alias, version=version)
        return await self._control(self._models.SetAlias, request)

    async def delete_alias(self, model: str, alias: str) -> Model:
        """Takes an alias away; its version stays. Raises NotFoundError where there is none."""
        request = models_pb2.DeleteAliasRequest(model=model_name(model), alias=alias)
        return await self._control(self._models.DeleteAlias, request)

    async def set_serving_settings(self, model: str, settings: ServingSettings, fields: Sequence[str]) -> Model:
        """Changes these fields of how a model is served; those not set in `settings` take their defaults again."""
        request = models_pb2.UpdateModelRequest(
            model=Model(name=model_name(model), serving_settings=settings),
            update_mask=FieldMask(paths=[f"serving_settings.{field}" for field in fields]),
        )
        return await self._control(self._models.UpdateModel, request)

    async def recalibrate(
        self,
        version: str,
        inputs: Array,
        *,
        prior: float = 16.0,
        timeout: float = 900.0,
        request_id: str | None = None,
    ) -> ModelVersion:
        """A new version with the population statistics of unlabelled `inputs`; no alias moves.

        Args:
            version: models/{model}/versions/{n} or {model}@{alias}: what to start from.
            inputs: raw pixels [N, C, H, W], N at least 2, uint8 or numbers from 0 to 255.
            prior: how many samples the version's own statistics count as.
            timeout: seconds; a small network takes a few.
            request_id: a UUID; repeating the call with it makes no second version. None: a new one.

        Raises TensorError; AlreadyExistsError where the request_id has made another version; PreconditionError where
        the model has no alias `production`, so that the new version would answer at once, or it cannot be certified.
        """
        request_id = request_id or str(uuid.uuid4())
        requests = await in_thread(recalibration_requests, model_name(version), inputs, prior, request_id)
        try:
            return await self._models.RecalibrateModel(requests, timeout=timeout, metadata=self._control.metadata)
        except grpc.RpcError as error:
            raise self._control.failure(error) from None

    # Inference

    async def infer(
        self, model: str, inputs: Mapping[str, Array], *, version: str = "", timeout: float | None = None
    ) -> InferResult:
        """One inference; see Inference.infer."""
        return await self.inference.infer(model, inputs, version=version, timeout=timeout)

    async def predict(
        self, model: str, pixels: Array, *, version: str = "", timeout: float | None = None
    ) -> Prediction:
        """Class probabilities of images; see Inference.predict."""
        return await self.inference.predict(model, pixels, version=version, timeout=timeout)


async def _pages(fetch: Callable[[str], Awaitable[Any]], items: Callable[[Any], Iterable[Any]]) -> AsyncIterator[Any]:
    token = ""
    while True:
        response = await fetch(token)
        for item in items(response):
            yield item
        token = response.next_page_token
        if not token:
            return

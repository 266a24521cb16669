"""Messages of batchyard.v1 to what the domain takes, and the domain's records to messages. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from batchyard.artifact.manifest import WEIGHTS, RecalibrationRecord
from batchyard.control import names, records
from batchyard.control.states import State
from batchyard.endpoint.errors import FieldViolation, InvalidInputError
from batchyard.training import events
from batchyard.v1 import models_pb2, recalibration_pb2, serving_pb2, spec_pb2, training_pb2

_PHASES: Mapping[str | None, training_pb2.Progress.Phase.ValueType] = {
    "loading": training_pb2.Progress.LOADING,
    "training": training_pb2.Progress.TRAINING,
    "publishing": training_pb2.Progress.PUBLISHING,
}


def spec_mapping(spec: spec_pb2.TrainingJobSpec) -> dict[str, Any]:
    """The nested mapping that TrainingJobSpec.from_mapping reads: only fields that are set, integers as integers."""
    return mapping(spec)


def mapping(message: Message) -> dict[str, Any]:
    """The fields of a message that are set, nested mappings for its messages."""
    return {field.name: _plain(field, value) for field, value in message.ListFields()}


def _plain(field: FieldDescriptor, value: Any) -> Any:
    if field.is_repeated:
        return list(value)
    return mapping(value) if field.message_type is not None else value


def states(given: Iterable[int]) -> list[State]:
    """The states of a list request. Raises InvalidInputError."""
    kinds = training_pb2.TrainingJob.State.DESCRIPTOR.values_by_number
    return [State(_enum_name(kinds, number, "states")) for number in given]


def event_kinds(given: Iterable[int]) -> list[str]:
    """The Event.kind of each EventKind of a watch request. Raises InvalidInputError."""
    kinds = training_pb2.EventKind.DESCRIPTOR.values_by_number
    return [_enum_name(kinds, number, "kinds").lower() for number in given]


def _enum_name(values: Mapping[int, Any], number: int, field: str) -> str:
    if number == 0 or number not in values:
        legal = ", ".join(value.name for key, value in sorted(values.items()) if key != 0)
        raise InvalidInputError([FieldViolation(field, f"{number} given; expected some of {legal}")])
    return str(values[number].name)


def training_job(job: records.Job) -> training_pb2.TrainingJob:
    """A job as the API shows it."""
    return training_pb2.TrainingJob(
        name=names.job(job.id),
        spec=json_format.ParseDict(dict(job.spec), spec_pb2.TrainingJobSpec(), ignore_unknown_fields=True),
        state=training_pb2.TrainingJob.State.Value(job.state),
        failure=failure(job.failure) if job.failure else None,
        progress=progress(job.progress, job.ended) if job.progress else None,
        attempt=job.attempt,
        model_version=job.model_version or "",
        create_time=timestamp(job.create_time),
        start_time=timestamp(job.start_time),
        first_step_time=timestamp(job.first_step_time),
        end_time=timestamp(job.end_time),
        user=job.user,
        tags=job.tags,
        note=job.note,
    )


def user(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """Who calls, as the client says; empty where it does not."""
    return str(dict(metadata or ()).get("batchyard-user", ""))


def failure(given: records.Failure) -> training_pb2.Failure:
    """Why a job failed."""
    return training_pb2.Failure(
        failure_class=training_pb2.Failure.Class.Value(given.failure_class.upper()),
        cause=given.cause,
        next_step=given.next_step,
    )


def progress(given: records.Progress, ended: bool) -> training_pb2.Progress:
    """Where a job stands; an ended one has nothing left to do."""
    remaining = None if ended else given.remaining()
    return training_pb2.Progress(
        phase=_PHASES.get(given.phase, training_pb2.Progress.PHASE_UNSPECIFIED),
        step=given.step,
        steps=given.steps,
        loss=given.loss,
        accuracy=given.accuracy,
        evaluation_accuracy=given.evaluation_accuracy,
        samples_per_second=given.samples_per_second,
        checkpoint_step=given.checkpoint_step,
        remaining=None if remaining is None else _duration(remaining),
    )


def watch_response(stored: records.StoredEvent) -> training_pb2.WatchTrainingJobResponse:
    """An event with the cursor that marks the place after it."""
    event = training_pb2.TrainingEvent(time=timestamp(stored.event.time), attempt=stored.attempt)
    getattr(event, stored.event.kind).CopyFrom(_event(stored.event))
    return training_pb2.WatchTrainingJobResponse(cursor=stored.cursor, event=event)


def _event(event: events.Event) -> Message:
    match event:
        case records.StateChange():
            return _state_change(event)
        case events.PhaseChange():
            phase = _PHASES.get(event.phase, training_pb2.Progress.PHASE_UNSPECIFIED)
            return training_pb2.PhaseChange(phase=phase)
        case events.StepMetrics():
            return training_pb2.StepMetrics(**_values(event))
        case events.Evaluation():
            return training_pb2.Evaluation(**_values(event))
        case events.LayerStatistics():
            layers = [training_pb2.LayerStatistics.Layer(**vars(layer)) for layer in event.layers]
            return training_pb2.LayerStatistics(step=event.step, layers=layers)
        case events.LogLine():
            return training_pb2.LogLine(**_values(event))
        case events.Checkpointed():
            return training_pb2.Checkpointed(**_values(event))
        case events.Resumed():
            return training_pb2.Resumed(**_values(event))
    raise TypeError(f"{type(event).__name__} is no part of a job's log")


def _state_change(event: records.StateChange) -> training_pb2.StateChange:
    return training_pb2.StateChange(
        state=training_pb2.TrainingJob.State.Value(event.state),
        failure=failure(event.failure) if event.failure else None,
        model_version=event.model_version or "",
    )


def _values(event: events.Event) -> dict[str, Any]:
    return {name: value for name, value in vars(event).items() if name != "time"}


def model(given: records.Model) -> models_pb2.Model:
    """A model as the API shows it."""
    return models_pb2.Model(
        name=names.model(given.name),
        create_time=timestamp(given.create_time),
        latest_version=given.latest_version,
        aliases=given.aliases,
        serving_settings=serving_pb2.ServingSettings(**given.serving_settings) if given.serving_settings else None,
    )


def model_version(given: records.ModelVersion) -> models_pb2.ModelVersion:
    """A version as the API shows it."""
    manifest = given.manifest
    return models_pb2.ModelVersion(
        name=names.version(given.model, given.number),
        create_time=timestamp(given.create_time),
        training_job=names.job(given.job) if given.job else "",
        artifact_uri=given.artifact_uri,
        manifest_sha256=given.manifest_sha256,
        architecture=manifest.spec["model"]["architecture"],
        dataset=manifest.dataset,
        dataset_sha256=manifest.dataset_sha256,
        parameter_count=manifest.parameter_count,
        population_statistics=manifest.population_statistics,
        accuracy_unfolded=manifest.evaluated.accuracy,
        inputs=[models_pb2.TensorSignature(**vars(signature)) for signature in manifest.inputs],
        outputs=[models_pb2.TensorSignature(**vars(signature)) for signature in manifest.outputs],
        classes=manifest.classes,
        fold_report=[
            models_pb2.FoldEntry(layer=entry.layer, status=entry.status, into=entry.into, reason=entry.reason)
            for entry in manifest.fold_report
        ],
        certificate=models_pb2.Certificate(**vars(manifest.certificate)),
        seed=manifest.seed,
        libraries=manifest.libraries,
        origin=manifest.origin,
        sources=manifest.sources,
        certificate_samples=manifest.certificate_samples,
        evaluated_samples=manifest.evaluated.samples,
        recalibration=recalibration(manifest.recalibration),
        weights_sha256=manifest.files.get(WEIGHTS, ""),
    )


def recalibration(given: RecalibrationRecord | None) -> recalibration_pb2.Recalibration | None:
    """How a recalibrated version came about."""
    return None if given is None else recalibration_pb2.Recalibration(**vars(given))


def served_models(given: Collection[records.ServedModel]) -> models_pb2.WatchServedModelsResponse:
    """What inference planes should serve."""
    return models_pb2.WatchServedModelsResponse(
        models=[
            models_pb2.ServedModel(model=model(one.model), versions=[model_version(v) for v in one.versions])
            for one in given
        ]
    )


def timestamp(seconds: float | None) -> Timestamp | None:
    """Seconds since the epoch as a Timestamp, to the microsecond."""
    if seconds is None:
        return None
    microseconds = round(seconds * 1e6)
    return Timestamp(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1000)


def _duration(seconds: float) -> Duration:
    whole = math.floor(min(seconds, 3e11))  # the longest that a Duration may say: about 10,000 years
    return Duration(seconds=whole, nanos=min(999_999_999, round((seconds - whole) * 1e9)) if seconds < 3e11 else 0)

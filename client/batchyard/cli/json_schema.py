"""What `--json` prints, command by command, as one JSON Schema: docs/cli.schema.json is made from it."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from batchyard.client.events import KINDS
from batchyard.client.plain_schema import Definitions, Schema
from batchyard.v1.lineage_pb2 import Lineage
from batchyard.v1.models_pb2 import Model, ModelVersion
from batchyard.v1.shadow_pb2 import ShadowComparison
from batchyard.v1.shift_pb2 import ModelShift
from batchyard.v1.training_pb2 import LogLine, TrainingJob, TrainingJobExplanation

_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_NUMBER: Schema = {"type": "number"}
_YES_NO: Schema = {"type": "boolean"}
_MAYBE_NUMBER: Schema = {"type": ["number", "null"]}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _map(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


def document() -> Schema:
    """`commands`: the words of a command -> the schema of one document that it prints."""
    definitions = Definitions()
    commands = _commands(definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What the commands of `batchyard` print with --json",
        "description": "Fields may be added; none is renamed or removed within a version of the API.",
        "commands": commands,
        "$defs": dict(sorted(definitions.schemas.items())),
    }


def _commands(definitions: Definitions) -> dict[str, Schema]:
    def of(message: type[Message]) -> Schema:
        return definitions.reference(message.DESCRIPTOR)

    job, version = of(TrainingJob), of(ModelVersion)
    event = _event(definitions, *KINDS)
    return {
        "up": _service(),
        "down": _object(stopped=_YES_NO, processes=_WHOLE),
        "status": _object(
            control=_object(address=_TEXT, state=_TEXT),
            inference=_object(address=_TEXT, state=_TEXT),
            jobs={**_map(_WHOLE), "description": "state -> jobs"},
            models=_list(_TEXT),
        ),
        "submit": {"anyOf": [job, event], "description": "with --follow an event a line, as `job watch`"},
        "jobs": {**_list(job), "description": "newest first"},
        "job show": job,
        "job watch": {**event, "description": "one a line"},
        "job explain": of(TrainingJobExplanation),
        "job cancel": job,
        "job pause": job,
        "job resume": job,
        "job rerun": {"anyOf": [job, _rerun(job)], "description": "the new job; with --wait also how it compares"},
        "job tag": job,
        "job wait": job,
        "job logs": {**_event(definitions, LogLine), "description": "one a line"},
        "job metrics": {"anyOf": [_list(_row()), _object(job=_TEXT, format=_TEXT, written=_TEXT)]},
        "models": _list({"allOf": [of(Model), _object(versions=_list(version))]}),
        "model show": {"allOf": [version, _object(aliases=_list(_TEXT))]},
        "model lineage": of(Lineage),
        "model set": of(Model),
        "model shift": of(ModelShift),
        "model shadow": of(ShadowComparison),
        "model engines": _engines(),
        "model recalibrate": version,
        "model export": {**_list(_TEXT), "description": "paths of the files written"},
        "model import": version,
        "model ensemble": version,
        "alias": of(Model),
        "predict": _predictions(),
        "top": _survey(job),
        "doctor": _list(
            _object(what=_TEXT, health={"enum": ["good", "absent", "warning", "bad"]}, found=_TEXT, advice=_TEXT)
        ),
    }


def _event(definitions: Definitions, *kinds: type[Any]) -> Schema:
    """Where and when, and the fields of the event's own message."""
    head = _object(cursor=_TEXT, time={"type": "string", "format": "date-time"}, attempt=_WHOLE, kind=_TEXT)
    return {"allOf": [head, {"anyOf": [definitions.reference(kind.DESCRIPTOR) for kind in kinds]}]}


def _service() -> Schema:
    """control.json of a running service, or what waits for its folder."""
    addresses = dict.fromkeys(("grpc", "http"), _TEXT)
    served: dict[str, Schema] = {name: {"type": ["string", "null"]} for name in ("inference_grpc", "inference_http")}
    facts = _object(pid=_WHOLE, started={}, tls=_YES_NO, **addresses)
    facts["properties"] |= {**served, "token_file": {"type": ["string", "null"]}, "inference_pid": {}}
    return {"anyOf": [facts, _object(pid=_WHOLE, standby=_YES_NO)]}


def _rerun(job: Schema) -> Schema:
    digests = {**_list(_TEXT), "description": "sha256 of the first job's weights and of the new one's"}
    equal = {"type": ["boolean", "null"], "description": "null: there is nothing to compare"}
    return _object(job=job, of=_TEXT, compared=_TEXT, equal=equal, sha256=digests)


def _row() -> Schema:
    """One step of a job's history."""
    row = _object(step=_WHOLE, attempt=_WHOLE, time={"type": "string", "format": "date-time"})
    return {**row, "additionalProperties": _NUMBER, "description": "and every quantity, such as train/loss"}


def _engines() -> Schema:
    seconds = {**_map(_NUMBER), "description": "rows of a batch -> seconds"}
    trial = _object(engine=_TEXT, threads=_WHOLE, passed=_YES_NO, reason=_TEXT, error=_MAYBE_NUMBER, seconds=seconds)
    trial["properties"]["precision"] = _TEXT
    conditions = {"type": "object", "description": "processor, cores, libraries and what else times depend on"}
    chosen = _object(up_to=_WHOLE, engine=_TEXT, threads=_WHOLE)
    about = {"schema_version": _WHOLE, "measuring": _YES_NO, "measured_on": _TEXT}
    return _object(conditions=conditions, trials=_list(trial), chosen=_list(chosen), **about)


def _predictions() -> Schema:
    one = _object(**{"class": _WHOLE, "label": _TEXT, "probability": _NUMBER})
    return _object(model=_TEXT, version=_TEXT, notes=_list(_TEXT), rows=_list(_object(classes=_list(one))))


def _survey(job: Schema) -> Schema:
    rates = ("requests_per_second", "failures_per_second", "queue_ms", "request_ms", "batch")
    traffic = _object(model=_TEXT, version=_TEXT, **dict.fromkeys(rates, _MAYBE_NUMBER))
    counts = {**_map(_WHOLE), "description": "state -> jobs"}
    planes = {"control": _TEXT, "inference": _TEXT}
    return _object(**planes, counts=counts, active=_list(job), ended=_list(job), traffic=_list(traffic))

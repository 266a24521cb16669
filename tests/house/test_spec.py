"""The job spec: what is legal, what every mistake is told, and that the API's messages have the same keys."""

import dataclasses
import types
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor

from batchyard.training.spec import SpecError, TrainingJobSpec
from batchyard.v1 import spec_pb2

LEAST: dict[str, Any] = {
    "name": "mnist-mlp",
    "model": {"architecture": "mlp"},
    "data": {"dataset": "digits"},
    "steps": 10,
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**LEAST, **changes}


def violations(mapping: Any) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        TrainingJobSpec.from_mapping(mapping)
    return {v.field: v.description for v in caught.value.violations}


def test_defaults_fill_in_and_the_mapping_reads_back() -> None:
    spec = TrainingJobSpec.from_mapping(LEAST)
    assert spec.model.hidden == (100, 100, 100)
    assert spec.workers.sync_batch_norm == "world"
    assert TrainingJobSpec.from_mapping(spec.to_mapping()) == spec


def test_everything_wrong_is_told_at_once() -> None:
    wrong = changed(model={"architecture": "mpl", "hidden": [0, 5]}, steps=0, workers={"count": 0})
    assert set(violations(wrong)) == {"model.architecture", "model.hidden[0]", "steps", "workers.count"}
    assert set(violations(changed(steps=0, seed=-1))) == {"steps", "seed"}


@pytest.mark.parametrize(
    ("mapping", "field", "words"),
    [
        (changed(model={"architecture": "mpl"}), "model.architecture", "did you mean 'mlp'?"),
        (changed(data={"dataset": "minst"}), "data.dataset", "did you mean 'mnist'?"),
        (changed(stpes=3), "stpes", "did you mean 'steps'?"),
        (changed(workers={"cuont": 3}), "workers.cuont", "did you mean 'count'?"),
        (changed(workers={"count": -1}), "workers.count", "-1 given"),
        (changed(workers={"count": 61}), "data.batch_size", "at least one sample for each of the 61 workers"),
        (changed(data={"dataset": "digits", "batch_size": -60}), "data.batch_size", "-60 given"),
        (changed(data={"dataset": "digits", "batch_size": 1}), "data.batch_size", "several samples"),
        (changed(steps="ten"), "steps", "expected a whole number"),
        (changed(steps=True), "steps", "expected a whole number"),
        (changed(steps=2**63), "steps", "9223372036854775807"),
        (changed(optimizer={"learning_rate": float("nan")}), "optimizer.learning_rate", "nan given"),
        (changed(optimizer={"learning_rate": 0}), "optimizer.learning_rate", "above 0"),
        (changed(optimizer={"momentum": 1.0}), "optimizer.momentum", "1.0 given"),
        (changed(name="Mnist"), "name", "a-z"),
        (changed(name=""), "name", "1 to 40"),
        (changed(publish={"model": "x" * 41}), "publish.model", "1 to 40"),
        (changed(publish={}), "publish.model", "missing"),
        (
            changed(model={"architecture": "mlp", "norm": "zca"}, publish={"model": "mnist"}),
            "model.norm",
            "'zca' given; expected another than zca or iternorm, which do not fold",
        ),
        (changed(publish={"model": "m", "statistics": "algo2"}), "publish.statistics", "did you mean 'alg2'?"),
        (changed(model="mlp"), "model", "expected a mapping"),
        (changed(model={"architecture": "mlp", "hidden": []}), "model.hidden", "1 to 64 layers"),
        (changed(model={"architecture": "mlp", "hidden": 100}), "model.hidden", "a list"),
        (changed(metrics={"every_steps": 0}), "metrics.every_steps", "1 or more"),
        (changed(epochs=2), "epochs", "either steps or epochs"),
        (changed(steps=None, epochs=0), "epochs", "1 or more"),
        (changed(steps=None), "steps", "the number of steps, or of epochs"),
        (changed(model={"architecture": "mlp", "width": 2}), "model.width", "mlp has one size"),
        (changed(model={"architecture": "mlp", "stem": "cifar"}), "model.stem", "mlp has one size"),
        (changed(model={"architecture": "resnet18", "width": 0}), "model.width", "above 0"),
        (changed(model={"architecture": "mlp", "ghost_size": 7}), "model.ghost_size", "which is 60"),
        (changed(model={"architecture": "mlp", "norm": "none", "ghost_size": 4}), "model.ghost_size", "not batch"),
        (
            changed(model={"architecture": "mlp", "ghost_size": 4}, workers={"count": 7}),
            "model.ghost_size",
            "(60 samples over 7 workers)",
        ),
        (changed(data={"dataset": "file://"}), "data.dataset", "file:///data/cats.zip"),
        (changed(data={"dataset": "/data/cats"}), "data.dataset", "SCHEME://PLACE"),
        (changed(data={"dataset": "digits", "image_size": 32}), "data.image_size", "leave it out"),
        (changed(data={"dataset": "s3://a/b", "image_size": 0}), "data.image_size", "from 1"),
        (changed(data={"dataset": "s3://a/b", "test_share": 1}), "data.test_share", "below 1"),
        (changed(data={"dataset": "digits", "shuffle": "half"}), "data.shuffle", "full, within_shard"),
        (changed(data={"dataset": "digits", "augment": {"crop": -4}}), "data.augment.crop", "-4 given"),
        (
            changed(data={"dataset": "digits", "augment": {"colour_jitter": 1}}),
            "data.augment.colour_jitter",
            "1.0 given",
        ),
        (changed(optimizer={"name": "adam"}), "optimizer.name", "did you mean 'adamw'?"),
        (changed(optimizer={"nesterov": True}), "optimizer.nesterov", "momentum above 0"),
        (changed(optimizer={"name": "adamw", "momentum": 0.9}), "optimizer.momentum", "adamw does not use it"),
        (changed(optimizer={"betas": [0.5, 0.9]}), "optimizer.betas", "sgd does not use it"),
        (changed(optimizer={"name": "adamw", "betas": [0.9]}), "optimizer.betas", "two numbers"),
        (changed(optimizer={"name": "adamw", "betas": [0.9, 1]}), "optimizer.betas[1]", "1.0 given"),
        (changed(optimizer={"betas": ["a", 1]}), "optimizer.betas[0]", "expected a number"),
        (changed(schedule={"name": "cosin"}), "schedule.name", "did you mean 'cosine'?"),
        (changed(schedule={"name": "exponential"}), "schedule.every_steps", "1 or more"),
        (changed(schedule={"name": "step"}), "schedule.every_steps", "either schedule.every_steps or"),
        (changed(schedule={"name": "step", "milestones": [5, 3]}), "schedule.milestones", "ascending"),
        (changed(schedule={"name": "cosine", "factor": 0.5}), "schedule.factor", "leave it out"),
        (changed(schedule={"name": "one_cycle", "warmup_steps": 5}), "schedule.warmup_steps", "does not use it"),
        (changed(schedule={"warmup_steps": 10}), "schedule.warmup_steps", "less than steps, which is 10"),
        (changed(loss="mse", label_smoothing=0.1), "label_smoothing", "0 with loss mse"),
        (changed(precision="fp16"), "precision", "workers.gpus_per_worker to 1, or use bf16"),
        (changed(precision="fp8"), "precision", "fp32, bf16, fp16"),
        (changed(channels_last=True), "channels_last", "mlp has no images"),
        (changed(accumulate=31), "data.batch_size", "each of the 31 micro-batches to normalise by"),
        (changed(accumulate=31, workers={"count": 2}), "data.batch_size", "2 workers in each of the 31 micro-batches"),
        (changed(compile=True, workers={"count": 2}), "compile", "false with several workers"),
        (changed(clip_norm=0), "clip_norm", "above 0"),
        (changed(ema_decay=1), "ema_decay", "below 1"),
        (changed(stop_at={"accuracy": 95}), "stop_at.accuracy", "0.95 for 95%"),
        (changed(stop_at={}), "stop_at.accuracy", "missing"),
        (changed(stop_at={"accuracy": 0.9}, evaluate={"every_steps": 0}), "evaluate.every_steps", "with stop_at"),
        (changed(checkpoint={"keep": 0}), "checkpoint.keep", "from 1"),
        (changed(checkpoint={"keep_best": -1}), "checkpoint.keep_best", "from 0"),
        (changed(retries=-1), "retries", "-1 given"),
        (changed(priority=1001), "priority", "1000"),
        (changed(workers={"hung_after_seconds": -1}), "workers.hung_after_seconds", "0 or more"),
        (changed(workers={"placement": "spred"}), "workers.placement", "did you mean 'spread'?"),
    ],
)
def test_a_mistake_names_its_field_and_the_way_out(mapping: dict[str, Any], field: str, words: str) -> None:
    found = violations(mapping)
    assert words in found[field], found


def test_what_is_missing_is_named() -> None:
    assert set(violations({})) == {"name", "model", "data", "steps"}
    assert violations([1]).keys() == {"spec"}


def test_epochs_stand_for_as_many_steps_as_the_data_has_batches() -> None:
    assert TrainingJobSpec.from_mapping(LEAST).total_steps(7) == 10
    assert TrainingJobSpec.from_mapping(changed(steps=None, epochs=3)).total_steps(7) == 21


TYPES = {
    FieldDescriptor.TYPE_INT32: "int",
    FieldDescriptor.TYPE_INT64: "int",
    FieldDescriptor.TYPE_DOUBLE: "float",
    FieldDescriptor.TYPE_STRING: "str",
    FieldDescriptor.TYPE_BOOL: "bool",
}


def keys_of_dataclass(kind: type, path: str = "") -> Iterator[tuple[str, str]]:
    """Each key's path and kind, with [] for a list."""
    for name, hint in typing.get_type_hints(kind).items():
        if isinstance(hint, types.UnionType):
            hint = next(part for part in typing.get_args(hint) if part is not type(None))
        if dataclasses.is_dataclass(hint):
            yield from keys_of_dataclass(typing.cast(type, hint), f"{path}{name}.")
        elif typing.get_origin(hint) is tuple:
            yield f"{path}{name}", f"{typing.get_args(hint)[0].__name__}[]"
        else:
            yield f"{path}{name}", hint.__name__


def keys_of_message(descriptor: Any, path: str = "") -> Iterator[tuple[str, str]]:
    for field in descriptor.fields:
        if field.message_type is not None:
            yield from keys_of_message(field.message_type, f"{path}{field.name}.")
        else:
            yield f"{path}{field.name}", f"{TYPES[field.type]}{'[]' if field.is_repeated else ''}"


def test_the_messages_of_the_api_have_the_keys_of_the_spec() -> None:
    ours = dict(keys_of_dataclass(TrainingJobSpec))
    assert ours == dict(keys_of_message(spec_pb2.TrainingJobSpec.DESCRIPTOR))

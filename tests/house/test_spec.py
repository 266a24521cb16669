"""The job spec: what is legal, what every mistake is told."""

from typing import Any

import pytest

from batchyard.training.spec import SpecError, TrainingJobSpec

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
        (changed(metrics={"every_steps": 0}), "metrics.every_steps", "from 1"),
    ],
)
def test_a_mistake_names_its_field_and_the_way_out(mapping: dict[str, Any], field: str, words: str) -> None:
    found = violations(mapping)
    assert words in found[field], found


def test_what_is_missing_is_named() -> None:
    assert set(violations({})) == {"name", "model", "data", "steps"}
    assert violations([1]).keys() == {"spec"}

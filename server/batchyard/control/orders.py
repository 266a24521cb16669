"""Checks what a caller orders, before anything is stored: the whole spec at once, against the cluster too."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from batchyard.cluster.executor import Capacity
from batchyard.endpoint.errors import FieldViolation, InvalidInputError
from batchyard.training.spec import SpecError, TrainingJobSpec, Violation, python_architecture


def check_order(
    mapping: Mapping[str, Any], request_id: str, capacity: Capacity, allow_python: Collection[str]
) -> TrainingJobSpec:
    """The spec, if this cluster can run it and the service allows its network's package.

    Raises InvalidInputError listing every violation found.
    """
    spec, violations = None, list[Violation]()
    try:
        spec = TrainingJobSpec.from_mapping(mapping)
    except SpecError as error:
        violations += error.violations
    named = {violation.field for violation in violations}
    violations += [v for v in _beyond_capacity(mapping.get("workers"), capacity) if v.field not in named]
    if spec is not None and (refused := python_architecture.refusal(spec.model.architecture, allow_python)):
        violations.append(Violation("model.architecture", refused))
    found = [FieldViolation(f"spec.{v.field}", v.description) for v in violations]
    if problem := no_request_id(request_id):
        found.append(FieldViolation("request_id", problem))
    if spec is None or found:
        raise InvalidInputError(found)
    return spec


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, object, object]]:
    """The paths at which two specs differ, with both values; None stands for a key that is not there."""
    left, right = dict(_flat(one)), dict(_flat(other))
    paths = sorted(left.keys() | right.keys())
    return [(p, left.get(p), right.get(p)) for p in paths if left.get(p) != right.get(p)]


def _flat(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, object]]:
    for key, part in value.items():
        if isinstance(part, Mapping):
            yield from _flat(part, f"{path}{key}.")
        else:
            yield f"{path}{key}", part


def _beyond_capacity(workers: object, capacity: Capacity) -> Iterator[Violation]:
    """What a spec's `workers` asks for that the cluster does not have; says nothing of values that are not numbers."""
    asked = workers if isinstance(workers, Mapping) else {}
    count, gpus = asked.get("count", 1), asked.get("gpus_per_worker", 0)
    if type(count) is not int or type(gpus) is not int:
        return
    if count > capacity.workers:
        most = f"the cluster has {capacity.workers}"
        advice = f"lower it to {capacity.workers} or start the service with --workers {count}"
        yield Violation("workers.count", f"{count} workers given; {most}: {advice}")
    elif gpus > 0 and capacity.gpus == 0:
        yield Violation("workers.gpus_per_worker", f"{gpus} given; the cluster has no GPU: set it to 0")
    elif count * gpus > capacity.gpus:
        needed = f"{count} workers with {gpus} GPU each need {count * gpus}; the cluster has {capacity.gpus}"
        yield Violation("workers.count", f"{needed}: lower it, or set workers.gpus_per_worker to 0")


def no_request_id(given: str) -> str:
    """What is wrong with a request_id; empty: it is a UUID, or empty."""
    try:
        if not given or str(uuid.UUID(given)) == given.lower():
            return ""
    except ValueError:
        pass
    return f"{given[:80]!r} given; expected a UUID like 123e4567-e89b-12d3-a456-426614174000, or nothing"

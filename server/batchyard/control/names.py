"""Resource names (AIP-122): trainingJobs/{id}, models/{model}, models/{model}/versions/{n}, models/{model}@{alias}."""

from __future__ import annotations

import re

from batchyard.endpoint.errors import FieldViolation, InvalidInputError

ALIAS_RULE = re.compile(r"[a-z][a-z0-9-]{0,39}")
_NAME = r"[a-z][a-z0-9-]{0,63}"
_JOB = re.compile(rf"trainingJobs/({_NAME})")
_MODEL = re.compile(rf"models/({_NAME})")
_VERSION = re.compile(rf"models/({_NAME})(?:/versions/([1-9][0-9]{{0,17}})|@({ALIAS_RULE.pattern}))")


def job(job_id: str) -> str:
    """Gives trainingJobs/{id}."""
    return f"trainingJobs/{job_id}"


def model(name: str) -> str:
    """Gives models/{model}."""
    return f"models/{name}"


def version(name: str, number: int) -> str:
    """Gives models/{model}/versions/{n}."""
    return f"models/{name}/versions/{number}"


def parse_job(given: str, field: str = "name") -> str:
    """The job's id. Raises InvalidInputError."""
    return _match(_JOB, given, field, "trainingJobs/{id}")[1]


def parse_model(given: str, field: str = "name") -> str:
    """The model's name. Raises InvalidInputError."""
    return _match(_MODEL, given, field, "models/{model}")[1]


def parse_version(given: str, field: str = "name") -> tuple[str, int | str]:
    """The model's name with a version number or an alias. Raises InvalidInputError."""
    found = _match(_VERSION, given, field, "models/{model}/versions/{n} or models/{model}@{alias}")
    return found[1], int(found[2]) if found[2] else found[3]


def _match(rule: re.Pattern[str], given: str, field: str, expected: str) -> re.Match[str]:
    found = rule.fullmatch(given)
    if found is None:
        raise InvalidInputError([FieldViolation(field, f"{given!r} given; expected {expected}")])
    return found

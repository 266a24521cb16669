"""Resource names from what users write."""

from __future__ import annotations


def job_name(name: str) -> str:
    """The resource name of a job given by id or by resource name."""
    return name if name.startswith("trainingJobs/") else f"trainingJobs/{name}"


def model_name(name: str) -> str:
    """The resource name of a model given by name or by resource name."""
    return name if name.startswith("models/") else f"models/{name}"

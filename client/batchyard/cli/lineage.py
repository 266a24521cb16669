"""model lineage: from what is served back to the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from batchyard.cli.jobs import compact
from batchyard.cli.models import version_name
from batchyard.cli.names import model_name
from batchyard.cli.options import Connection, as_json, connects, examples
from batchyard.cli.output import clean, for_people, print_json, share, when

if TYPE_CHECKING:
    from batchyard.client import Lineage, ModelVersion
    from batchyard.v1.lineage_pb2 import Deployment, VersionLineage

    Facts = list[tuple[str, str]]

SHORT = 12
"""Hexadecimal digits of a digest that people are shown; pipes get all."""


@click.command(
    epilog=examples(
        "batchyard model lineage digits",
        "batchyard model lineage digits@production",
        "batchyard model lineage digits/2 --json | jq '.versions[0].version.dataset_sha256'",
    )
)
@model_name("name", version=True)
@as_json
@connects()
def lineage(name: str, as_json: bool, connection: Connection) -> None:
    """Where a version comes from (default: the latest), back to the data.

    What it is served as, its certificate, checkpoint, job, spec, seed, code, libraries and dataset. Of an ensemble or a
    recalibrated version also those of the versions that it was made from.
    """
    from batchyard.client import plain

    with connection.open() as client:
        found = client.lineage(version_name(client, name))
    if as_json:
        print_json(plain(found))
        return
    for line in _tree(found) if for_people() else _lines(found):
        click.echo(line)


def _lines(found: Lineage) -> Iterator[str]:
    """For pipes: version, what, value."""
    for each in found.versions:
        sources = ", ".join(map(_short_name, each.version.sources))
        for label, value in [*_facts(each), ("made from", sources)]:
            if value:
                yield f"{_short_name(each.version.name)}\t{label}\t{clean(value)}"


def _tree(found: Lineage) -> Iterator[str]:
    """For people: what a version was made from stands below it, further in; in full where it is met first."""
    versions = {each.version.name: each for each in found.versions}
    shown: set[str] = set()

    def branch(name: str, indent: str) -> Iterator[str]:
        if name in shown:
            yield f"{indent}{_short_name(name)} (see above)"
            return
        shown.add(name)
        yield indent + _short_name(name)
        facts = [(label, value) for label, value in _facts(versions[name]) if value]
        width = max(len(label) for label, _ in facts) + 2
        yield from (f"{indent}  {label:<{width}}{clean(value)}" for label, value in facts)
        if sources := versions[name].version.sources:
            yield f"{indent}  made from"
            for source in sources:
                yield from branch(source, f"{indent}    ")

    return branch(found.name, "")


def _facts(given: VersionLineage) -> Facts:
    version = given.version
    return [
        ("deployment", _deployment(given.deployment, version)),
        ("version", f"{version.origin}, {when(version.create_time)}"),
        ("artifact", version.artifact_uri),
        ("manifest", _digest(version.manifest_sha256)),
        ("weights", _digest(version.weights_sha256)),
        ("certificate", _certificate(version)),
        *_training(given),
        ("recalibrated with", _recalibration(version)),
        ("seed", str(version.seed) if version.origin == "trained" else ""),
        ("network", f"{version.architecture}, {version.parameter_count:,} parameters"),
        ("statistics", version.population_statistics),
        ("code", ", ".join(f"{name} {number}" for name, number in sorted(version.libraries.items()))),
        ("dataset", version.dataset and f"{version.dataset}, {_digest(version.dataset_sha256)}"),
        ("accuracy", _accuracy(version)),
    ]


def _deployment(given: Deployment, version: ModelVersion) -> str:
    model = _short_name(version.name).partition("/")[0]
    served = [f"{model}@{alias}" for alias in given.aliases] + (["the newest version"] if given.latest else [])
    return ", ".join(served) or "not served: no alias names it, and it is not the newest version"


def _certificate(version: ModelVersion) -> str:
    proof, kind = version.certificate, version.certificate_samples
    verdict = "passed" if proof.passed else "NOT passed"
    errors = f"largest error {proof.max_error:.3g}, allowed {proof.bound:.3g}"
    return f"{verdict}; {errors}, {proof.samples:,} {f'{kind} ' if kind else ''}samples, {_digest(proof.digest)}"


def _training(given: VersionLineage) -> Facts:
    """Checkpoint, job and spec."""
    from batchyard.client import plain, state_name

    job = given.training_job
    if not given.HasField("training_job"):
        name = given.version.training_job.removeprefix("trainingJobs/")
        return [("job", f"{name}, of which the service has no record")] if name else []
    done = f"; trained to step {job.progress.step:,}" if job.progress.step else ""
    made = given.checkpoint
    kept = f"step {made.step:,}, {made.uri}, {_digest(made.sha256)}" if given.HasField("checkpoint") else "none is kept"
    user = f" of {job.user}" if job.user else ""
    who = f"{job.name.removeprefix('trainingJobs/')}{user}, {state_name(job)}, attempt {given.attempt}"
    spec = [(f"spec.{key}", compact(value)) for key, value in plain(job.spec).items() if key not in ("name", "seed")]
    return [("checkpoint", kept + done), ("job", who), *spec]


def _recalibration(version: ModelVersion) -> str:
    made = version.recalibration
    inputs = f"{made.samples:,} unlabelled inputs, a prior of {made.prior:g} samples, {_digest(made.inputs_sha256)}"
    return inputs if version.HasField("recalibration") else ""


def _accuracy(version: ModelVersion) -> str:
    if not version.evaluated_samples:
        return ""
    return f"{share(version.accuracy_unfolded)} before folding, on {version.evaluated_samples:,} samples"


def _digest(sha256: str) -> str:
    return sha256 and f"sha256 {sha256[:SHORT] if for_people() else sha256}"


def _short_name(name: str) -> str:
    """models/mnist/versions/3 as mnist/3."""
    return name.removeprefix("models/").replace("/versions/", "/")

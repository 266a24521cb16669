"""models, model show, alias."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchyard.cli.model_set import setting_facts
from batchyard.cli.names import model_name
from batchyard.cli.options import Connection, as_json, connects, examples
from batchyard.cli.output import ABSENT, clean, for_people, print_facts, print_json, print_table, share, when

if TYPE_CHECKING:
    from batchyard.client import Client, Model, ModelVersion


@click.command(epilog=examples("batchyard models", "batchyard models --json | jq '.[].aliases'"))
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1), help="Versions of each model, newest first."
)
@as_json
@connects()
def models(limit: int, as_json: bool, connection: Connection) -> None:
    """List models and their versions.

    Aliases, accuracy before folding, certificate, and the job that each version came from.
    """
    from batchyard.client import plain

    with connection.open() as client:
        found = [(model, _versions(client, model, limit)) for model in client.models()]
    if as_json:
        return print_json([{**plain(model), "versions": [plain(v) for v in versions]} for model, versions in found])
    columns = ("model", "version", "aliases", "accuracy", "error, bound", "dataset", "job", "created")
    rows = [_row(model, version) for model, versions in found for version in versions]
    print_table(columns, rows, none="No models yet. A job with a `publish` section makes one.", spare=_SPARE)
    return None


_SPARE = ("created", "dataset", "error, bound", "job")
"""What a narrow terminal does without."""


@click.group()
def model() -> None:
    """One model: its versions, engines and shift; export, import, recalibrate, and how it is served."""


@model.command(
    epilog=examples(
        "batchyard model show mnist", "batchyard model show mnist@production", "batchyard model show mnist/2"
    )
)
@model_name("name", version=True)
@as_json
@connects()
def show(name: str, as_json: bool, connection: Connection) -> None:
    """Everything known of a version (default: the latest).

    Lineage, inputs and outputs, the certificate, and what became of each normalisation layer.
    """
    from batchyard.client import plain

    with connection.open() as client:
        model = client.model(name.partition("@")[0].partition("/")[0])
        version = client.version(_version_name(name, model))
    if as_json:
        return print_json({**plain(version), "aliases": _aliases(model, version)})
    print_facts([*_facts(model, version), *setting_facts(model)])
    if for_people():
        click.echo()
    rows = [(e.layer, e.status, e.into or ABSENT, e.reason or ABSENT) for e in version.fold_report]
    print_table(("layer", "normalisation", "folded into", "why not"), rows, none="No normalisation layers.")
    return None


@click.command(epilog=examples("batchyard alias mnist production 3", "batchyard alias mnist shadow --delete"))
@model_name("model", version=False)
@click.argument("alias")
@click.argument("version", type=click.IntRange(1), required=False)
@click.option("--delete", is_flag=True, help="Take the alias away; its version stays.")
@as_json
@connects()
def alias(model: str, alias: str, version: int | None, delete: bool, as_json: bool, connection: Connection) -> None:
    """Point ALIAS of MODEL at VERSION.

    The inference planes follow at once. `production` answers requests that name no version; `shadow` gets copies of
    some of them (`batchyard model shadow`).
    """
    from batchyard.client import plain

    if delete == (version is not None):
        raise click.UsageError("give one of VERSION and --delete")
    with connection.open() as client:
        changed = client.delete_alias(model, alias) if version is None else client.set_alias(model, alias, version)
    if as_json:
        print_json(plain(changed))
    else:
        if for_people() and not changed.aliases:
            click.echo(f"{model} has no alias now; its newest version, {changed.latest_version}, answers.")
        for name, number in sorted(changed.aliases.items()):
            click.echo(f"{model}@{name} is version {number}" if for_people() else f"{clean(name)}\t{number}")


def _versions(client: Client, model: Model, limit: int) -> list[ModelVersion]:
    from itertools import islice

    return list(islice(client.versions(model.name), limit))


def version_name(client: Client, given: str) -> str:
    """The resource name for MODEL (its latest version), MODEL@ALIAS or MODEL/VERSION."""
    model = client.model(given.partition("@")[0].partition("/")[0])
    name = _version_name(given, model)
    return name if name.startswith("models/") else f"models/{name}"


def _version_name(given: str, model: Model) -> str:
    """The resource name for MODEL, MODEL@ALIAS or MODEL/VERSION."""
    if "@" in given:
        return given
    number = given.partition("/")[2] or str(model.latest_version)
    if not number.isdecimal():
        raise click.UsageError(f"{given!r} given; expected MODEL, MODEL@ALIAS or MODEL/VERSION, for example mnist/2")
    return f"{model.name}/versions/{number}"


def _number(version: ModelVersion) -> int:
    return int(version.name.rpartition("/")[2])


def _aliases(model: Model, version: ModelVersion) -> list[str]:
    return sorted(name for name, number in model.aliases.items() if number == _number(version))


def _accuracy(version: ModelVersion) -> str:
    """Empty where nobody has measured it."""
    measured = version.evaluated_samples or version.training_job
    return share(version.accuracy_unfolded) if measured else ""


def _certificate(version: ModelVersion) -> str:
    proof = version.certificate
    verdict = "" if proof.passed else " NOT PASSED"
    return f"{proof.max_error:.2g}, {proof.bound:.2g}{verdict}"


def _row(model: Model, version: ModelVersion) -> tuple[str, ...]:
    return (
        model.name.removeprefix("models/"),
        str(_number(version)),
        ", ".join(_aliases(model, version)) or ABSENT,
        _accuracy(version) or ABSENT,
        _certificate(version),
        version.dataset or ABSENT,
        version.training_job.removeprefix("trainingJobs/") or version.origin,
        when(version.create_time),
    )


def _recalibration(version: ModelVersion) -> str:
    made = version.recalibration
    return f"{made.samples:,} unlabelled inputs, a prior of {made.prior:g} samples" if made.samples else ""


def _default(model: Model, version: ModelVersion) -> str:
    """Which version answers requests that name none, where it is another one."""
    number = model.aliases.get("production", model.latest_version)
    return "" if number == _number(version) else f"requests that name no version are answered by version {number}"


def _facts(model: Model, version: ModelVersion) -> list[tuple[str, str]]:
    proof = version.certificate
    verdict = "passed" if proof.passed else "NOT passed: no inference plane serves it"
    kind = version.certificate_samples
    return [
        ("model", model.name.removeprefix("models/")),
        ("version", str(_number(version))),
        ("aliases", ", ".join(_aliases(model, version))),
        ("not the default", _default(model, version)),
        ("created", when(version.create_time)),
        ("job", version.training_job.removeprefix("trainingJobs/")),
        ("architecture", f"{version.architecture}, {version.parameter_count:,} parameters"),
        ("origin", version.origin),
        ("made from", ", ".join(name.removeprefix("models/").replace("/versions/", "/") for name in version.sources)),
        ("recalibrated with", _recalibration(version)),
        ("dataset", version.dataset and f"{version.dataset} (sha256 {version.dataset_sha256[:12]})"),
        ("classes", ", ".join(version.classes)),
        ("accuracy before folding", _accuracy(version)),
        ("population statistics", version.population_statistics),
        ("certificate", f"{verdict}; largest error {proof.max_error:.3g}, allowed {proof.bound:.3g}, "
                        f"{proof.samples:,} {f'{kind} ' if kind else ''}samples"),
        *((f"input {t.name}", f"{t.datatype} {list(t.shape)}") for t in version.inputs),
        *((f"output {t.name}", f"{t.datatype} {list(t.shape)}") for t in version.outputs),
        ("artifact", version.artifact_uri),
        ("manifest sha256", version.manifest_sha256),
        ("seed", str(version.seed)),
        ("libraries", ", ".join(f"{name} {number}" for name, number in sorted(version.libraries.items()))),
    ]  # fmt: skip

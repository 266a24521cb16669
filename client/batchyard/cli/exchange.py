"""model export, model import, model ensemble: versions to and from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchyard.cli.models import version_name
from batchyard.cli.names import model_name
from batchyard.cli.options import Connection, as_json, connects, examples
from batchyard.cli.output import for_people, print_json

if TYPE_CHECKING:
    from batchyard.client import ModelVersion

_FORMATS = ("onnx", "torch-export", "triton")
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(
    "export",
    epilog=examples(
        "batchyard model export mnist@production --format onnx --out mnist-onnx",
        "batchyard model export mnist/3 --format triton --backend python --out model-repository",
    ),
)
@model_name("name", version=True)
@click.option("--format", "file_format", required=True, type=click.Choice(_FORMATS), help="What to write.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="A new folder.")
@click.option(
    "--backend",
    type=click.Choice(("onnxruntime", "python")),
    default="onnxruntime",
    show_default=True,
    help="triton only: which of Triton's backends runs the graph; both run ONNX Runtime.",
)
@as_json
@connects()
def export_(name: str, file_format: str, out: Path, backend: str, as_json: bool, connection: Connection) -> None:
    """Write a version's files to FOLDER, for use without this service.

    onnx: the folded graph, its signature and classes. torch-export: the folded network as a torch.export program.
    triton: a model repository for the Triton inference server. Every file is checked against its digest.
    """
    with connection.open() as client:
        if backend == "python" and file_format != "triton":
            raise click.UsageError("--backend python is for --format triton")
        chosen = "triton-python" if backend == "python" else file_format
        paths = client.exchange.export(version_name(client, name), chosen, out)
    if as_json:
        return print_json([str(path) for path in paths])
    for path in paths:
        click.echo(path)
    return None


@click.command(
    "import",
    epilog=examples(
        "batchyard model import mnist --weights mlp.safetensors --architecture mlp.yaml --samples test.npz",
        "batchyard model import cats --onnx cats.onnx --alias production",
    ),
)
@click.argument("name", metavar="MODEL")
@click.option("--weights", type=_FILE, help="A torch state_dict, safetensors.")
@click.option("--architecture", type=_FILE, help="YAML with model (as in a job), input and classes.")
@click.option("--onnx", type=_FILE, help="An ONNX file with its normalisations whole.")
@click.option("--samples", type=_FILE, help="NPZ with `inputs`, and perhaps `labels`, to certify it on.")
@click.option("--alias", default="", help="An alias to point at the new version.")
@click.option("--request-id", metavar="UUID", help="Makes repeating safe: the same id is one version.")
@as_json
@connects()
def import_(
    name: str,
    weights: Path | None,
    architecture: Path | None,
    onnx: Path | None,
    samples: Path | None,
    alias: str,
    request_id: str | None,
    as_json: bool,
    connection: Connection,
) -> None:
    """Publish a network that was trained elsewhere as a new version of MODEL.

    Its batch normalisations are folded and the result is certified, on --samples if given, else on random ones.
    """
    if (weights is None) == (onnx is None):
        raise click.UsageError("give either --weights, with --architecture, or --onnx")
    if weights is not None and architecture is None:
        raise click.UsageError("--weights needs --architecture: the file that says what they are the weights of")
    with connection.open() as client:
        version = client.exchange.import_version(
            name,
            weights=weights,
            architecture=architecture,
            onnx=onnx,
            samples=samples,
            alias=alias,
            request_id=request_id,
        )
    _print_version(version, as_json)


@click.command(epilog=examples("batchyard model ensemble mnist-six --members a@production,b@production,c/4"))
@click.argument("name", metavar="MODEL")
@click.option("--members", required=True, metavar="MODEL[@ALIAS|/VERSION],...", help="2 to 32 versions.")
@click.option("--alias", default="", help="An alias to point at the new version.")
@click.option("--request-id", metavar="UUID", help="Makes repeating safe: the same id is one version.")
@as_json
@connects()
def ensemble(
    name: str, members: str, alias: str, request_id: str | None, as_json: bool, connection: Connection
) -> None:
    """Publish several versions as one network: the mean of their softmax.

    One request, one batch, one reply. Its output are logits, the logarithm of that mean.
    """
    with connection.open() as client:
        chosen = [version_name(client, member.strip()) for member in members.split(",")]
        version = client.exchange.create_ensemble(name, chosen, alias, request_id=request_id)
    _print_version(version, as_json)


def _print_version(version: ModelVersion, as_json: bool) -> None:
    from batchyard.client import plain

    if as_json:
        print_json(plain(version))
        return
    folded = [entry.status for entry in version.fold_report]
    left = [entry for entry in version.fold_report if entry.status != "folded"]
    click.echo(version.name.removeprefix("models/").replace("/versions/", "/"))
    if not for_people():
        return
    proof = version.certificate
    click.echo(f"{folded.count('folded')} of {len(folded)} normalisations are folded")
    for entry in left:
        click.echo(f"  {entry.layer} is {entry.status}: {entry.reason}")
    samples = f"{proof.samples:,} {version.certificate_samples} samples"
    click.echo(f"certificate: largest error {proof.max_error:.3g}, allowed {proof.bound:.3g}, {samples}")
    if version.certificate_samples == "generated":
        click.echo("The samples are random numbers: give --samples for a proof on data of the network's own kind.")

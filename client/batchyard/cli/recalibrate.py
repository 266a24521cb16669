"""model recalibrate: a new version of a model for the data that it meets now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchyard.cli.failures import USAGE, Failure
from batchyard.cli.names import model_name
from batchyard.cli.options import Connection, as_json, connects, examples
from batchyard.cli.output import for_people, print_facts, print_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from batchyard.client import Client, ModelVersion

PRIOR = 16.0
LEAST_ROWS = 2
"""What has no variance is no population."""


@click.command(
    epilog=examples(
        "batchyard model recalibrate mnist --inputs pixels.npz",
        "batchyard model recalibrate mnist@production --sampled --prior 64",
        "batchyard model recalibrate mnist/3 --inputs folder-of-pictures",
    )
)
@model_name("model", version=True)
@click.option(
    "--inputs",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="NPZ or NPY of raw pixels [N, C, H, W], or a folder of pictures; no labels.",
)
@click.option("--sampled", is_flag=True, help="Use the newest requests that an inference plane has sampled.")
@click.option(
    "--prior", default=PRIOR, show_default=True, type=click.FloatRange(0), help="Samples the old statistics count as."
)
@click.option("--request-id", metavar="UUID", help="Makes repeating safe: the same id is one version.")
@as_json
@connects(inference=True)
def recalibrate(
    model: str,
    inputs: Path | None,
    sampled: bool,
    prior: float,
    request_id: str | None,
    as_json: bool,
    connection: Connection,
) -> None:
    """Make a new version with the population statistics of unlabelled inputs.

    It starts from a version (default: the alias production), is folded and certified like any other, and serves under
    its number. No alias moves: give it the alias `shadow` first and look at
    `batchyard model shadow`, then promote it with `batchyard alias`.
    """
    from batchyard.client import plain

    if sampled == (inputs is not None):
        raise click.UsageError("give one of --inputs FILE and --sampled")
    name = model if "@" in model or "/" in model else f"{model}@production"
    with connection.open() as client:
        rows = _sampled(client, name) if inputs is None else _read(client, name, inputs)
        version = client.recalibrate(_resource(name), rows, prior=prior, request_id=request_id)
    if as_json:
        return print_json(plain(version))
    print_facts(_facts(version))
    if for_people():
        base, number = version.name.removeprefix("models/").split("/versions/")
        click.echo(f"\nTry it      batchyard predict {base}/{number} FILE")
        click.echo(f"Shadow it   batchyard alias {base} shadow {number}, then batchyard model shadow {base}")
        click.echo(f"Promote it  batchyard alias {base} production {number}")
    return None


def _resource(name: str) -> str:
    """MODEL@ALIAS or MODEL/VERSION as the control plane names versions."""
    return name if "@" in name else name.replace("/", "/versions/")


def _sampled(client: Client, name: str) -> NDArray[Any]:
    from batchyard.cli.predict import split

    model, version = split(name)
    rows = client.inference.shift.sampled_inputs(model, version)
    if len(rows) < LEAST_ROWS:
        share = "A share of the requests is sampled, as `batchyard model shift` tells"
        hint = f"{share}: ask it more, give `batchyard up` a larger --shift-sample-rate, or name --inputs."
        raise Failure(f"{name}: {len(rows)} rows were sampled; expected {LEAST_ROWS} or more", hint)
    return rows


def _read(client: Client, name: str, path: Path) -> NDArray[Any]:
    """The raw pixels in a file or folder. Raises Failure."""
    import numpy as np

    from batchyard.cli import pictures

    shape = tuple(client.version(_resource(name)).inputs[0].shape)
    if path.suffix.lower() == ".npz":
        return _read_npz(path)
    files = sorted(part for part in path.iterdir() if part.is_file()) if path.is_dir() else [path]
    if not files:
        raise Failure(f"{path}: an empty folder", "Give a folder with pictures.", USAGE)
    return np.concatenate([pictures.load(file, shape, invert=False).pixels for file in files])


def _read_npz(path: Path) -> NDArray[Any]:
    """The array `inputs`, or the only one. Raises Failure."""
    import zipfile

    import numpy as np

    hint = "Give an NPZ file with one array, or with one called `inputs`: numpy.savez(FILE, inputs=pixels)."
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = list(arrays)
            if len(names) != 1 and "inputs" not in names:
                raise Failure(f"{path}: it holds {', '.join(names) or 'nothing'}", hint, USAGE)
            return np.asarray(arrays["inputs" if "inputs" in names else names[0]])
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise Failure(f"{path}: not a readable NPZ file: {error}", hint, USAGE) from None


def _facts(version: ModelVersion) -> list[tuple[str, str]]:
    made, proof = version.recalibration, version.certificate
    return [
        ("version", version.name),
        ("made from", ", ".join(version.sources)),
        ("inputs", f"{made.samples:,}"),
        ("prior", f"{made.prior:g} samples"),
        ("certificate", f"passed; largest error {proof.max_error:.3g}, allowed {proof.bound:.3g}"),
    ]

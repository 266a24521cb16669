"""predict: what a served model says of the pictures in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchyard.cli.names import model_name
from batchyard.cli.options import Connection, as_json, connects, examples
from batchyard.cli.output import for_people, print_json, print_table

if TYPE_CHECKING:
    from batchyard.client import Client, Prediction


@click.command(
    epilog=examples(
        "batchyard predict mnist digit.png",
        "batchyard predict mnist@production scan.png --invert --top 1",
        "batchyard predict mnist images.npy --json | jq '.rows[].classes[0].label'",
    )
)
@model_name("model", version=True)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--top", default=3, show_default=True, type=click.IntRange(1), help="Classes to show.")
@click.option("--invert", is_flag=True, help="Exchange light and dark: for dark ink on white paper.")
@as_json
@connects(inference=True)
def predict(model: str, file: Path, top: int, invert: bool, as_json: bool, connection: Connection) -> None:
    """Classify the pictures in FILE.

    FILE is a PNG (or another picture), or an NPY array of pixels from 0 to 255. A picture is made to fit the
    model's input, and what was done to it is told on stderr. Probabilities are the
    softmax of the model's logits.
    """
    from batchyard.cli import pictures

    name, version = split(model)
    with connection.open() as client:
        described = client.inference.metadata(name, version)
        shape = tuple(described.inputs[0].shape) if described.inputs else ()
        loaded = pictures.load(file, shape, invert=invert)
        for note in loaded.notes:
            click.echo(f"{file}: {note}", err=True)
        answer = client.predict(name, loaded.pixels, version=version)
        labels = _labels(client, answer)
    rows = [_best(probabilities, top, labels) for probabilities in answer.probabilities]
    if as_json:
        ranked = [{"classes": [{"class": c, "label": label, "probability": p} for c, label, p in row]} for row in rows]
        return print_json({"model": answer.model, "version": answer.version, "notes": loaded.notes, "rows": ranked})
    if for_people():
        click.echo(f"{answer.model}, version {answer.version or 'of the server'}")
    lines = [(str(i), label, f"{p:.2%}") for i, row in enumerate(rows) for _, label, p in row]
    print_table(("row", "class", "probability"), lines, none="The file holds no pictures.")
    return None


def split(given: str) -> tuple[str, str]:
    """MODEL, MODEL@ALIAS or MODEL/VERSION as the inference protocol's model name and version."""
    name, slash, version = given.partition("/")
    if slash and not version.isdecimal():
        raise click.UsageError(f"{given!r} given; expected MODEL, MODEL@ALIAS or MODEL/VERSION, for example mnist/2")
    return name, version


def _best(probabilities: Any, top: int, labels: list[str]) -> list[tuple[int, str, float]]:
    order = (-probabilities).argsort(kind="stable")[:top]
    return [(int(c), labels[c] if c < len(labels) else str(c), float(probabilities[c])) for c in order]


def _labels(client: Client, answer: Prediction) -> list[str]:
    """Names of the classes; an inference plane serves on while the control plane, which knows them, is away."""
    from batchyard.client import RpcError

    if not answer.version.isdecimal():
        return []
    try:
        return list(client.version(f"{answer.model.partition('@')[0]}/versions/{answer.version}").classes)
    except RpcError:
        return []

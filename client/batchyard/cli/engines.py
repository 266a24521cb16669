"""model engines: what was measured of the engines on an inference plane's machine, and which of them serve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from batchyard.cli.names import model_name
from batchyard.cli.options import Connection, as_json, connects, examples
from batchyard.cli.output import ABSENT, for_people, print_facts, print_json, print_table
from batchyard.cli.predict import split

if TYPE_CHECKING:
    from batchyard.oip.messages import ModelConfig

TIMINGS, SERVING, CHOICE, PRECISION = "engine_timings", "engine", "engine_choice", "precision"
"""Parameters of ModelConfig: the table as JSON, who serves in words, why, and what the engines may compute in."""


@click.command(
    epilog=examples("batchyard model engines mnist", "batchyard model engines mnist/3 --json | jq '.trials[].seconds'")
)
@model_name("model", version=True)
@as_json
@connects(inference=True)
def engines(model: str, as_json: bool, connection: Connection) -> None:
    """Which engine serves a version, and why.

    A version is served at once by the first engine that holds its certificate. Then each engine is checked against
    the certificate and timed on the inference plane's machine, and the fastest of those that passed takes over; a later
    version of the same graph begins with it. Times are those of one batch of so many rows.
    """
    name, version = split(model)
    with connection.open() as client:
        config = client.inference.config(name, version)
    timings = _timings(config)
    if as_json:
        return print_json(timings)
    conditions = timings["conditions"]
    libraries = (f"{library} {number or 'missing'}" for library, number in conditions["libraries"].items())
    print_facts(
        [
            ("model", config.name),
            ("served by", config.parameters[SERVING].string_value),
            ("precision", config.parameters[PRECISION].string_value or ABSENT),
            ("choice", config.parameters[CHOICE].string_value),
            ("processor", f"{conditions['processor']}, {conditions['cores']} cores"),
            ("libraries", ", ".join(libraries)),
        ]
    )
    if for_people():
        click.echo()
    sizes = sorted({int(rows) for trial in timings["trials"] for rows in trial["seconds"]})
    times = [f"ms of {rows}" for rows in sizes]
    rows = [_row(trial, sizes) for trial in timings["trials"]]
    if not for_people():
        return print_table((*_HEAD, *times, "why not"), rows, none="")
    middle = times[len(times) // 2 :][:1]
    spare = [time for time in times[1:-1] if time not in middle] + middle  # the smallest and the largest tell the most
    tried, left_out = [row[:-1] for row in rows if row[-1] == ABSENT], [row for row in rows if row[-1] != ABSENT]
    print_table((*_HEAD, *times), tried, none="No engine was tried.", spare=spare)
    print_facts((f"not {row[0]}", row[-1]) for row in left_out)
    return None


_HEAD = ("engine", "precision", "threads", "error")


def _timings(config: ModelConfig) -> dict[str, Any]:
    """The table. Raises ClickException for a server that keeps none."""
    if TIMINGS not in config.parameters:
        raise click.ClickException(f"{config.name}: the server tells no times of engines; is it Batchyard's own?")
    found: dict[str, Any] = json.loads(config.parameters[TIMINGS].string_value)
    return found


def _row(trial: Mapping[str, Any], sizes: list[int]) -> tuple[str, ...]:
    times = (trial["seconds"].get(str(rows)) for rows in sizes)
    return (
        trial["engine"],
        trial.get("precision", ABSENT),
        str(trial["threads"] or ABSENT),
        ABSENT if trial["error"] is None else f"{trial['error']:.2g}",
        *(ABSENT if seconds is None else f"{seconds * 1000:.3g}" for seconds in times),
        trial["reason"] or ABSENT,
    )

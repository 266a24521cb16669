"""model shift: whether what a served model is asked now is like what it was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchyard.cli.names import model_name
from batchyard.cli.options import Connection, as_json, connects, examples
from batchyard.cli.output import ABSENT, for_people, print_facts, print_json, print_table, share
from batchyard.cli.predict import split

if TYPE_CHECKING:
    from batchyard.client import ModelShift
    from batchyard.v1.shift_pb2 import ChannelShift, LayerShift

SHOWN = 3
"""Channels of each layer in the table."""


@click.command(
    epilog=examples(
        "batchyard model shift mnist",
        "batchyard model shift mnist/3 --json | jq .shift",
        "watch batchyard model shift mnist",
    )
)
@model_name("model", version=True)
@click.option("--channels", default=SHOWN, show_default=True, type=click.IntRange(-1), help="Of each layer; -1: all.")
@as_json
@connects(inference=True)
def shift(model: str, channels: int, as_json: bool, connection: Connection) -> None:
    """How far live data is from training data, layer by layer.

    Measured on a share of an inference plane's newest requests. 0: as in training. A layer's shift is the mean over its
    channels of (mean moved)^2 + (deviation's ratio - 1)^2, in training standard deviations, less what chance explains.
    """
    from batchyard.client import plain

    name, version = split(model)
    with connection.open() as client:
        found = client.inference.shift.get(name, version, channels=channels)
    if as_json:
        return print_json(plain(found))
    print_facts(_facts(found))
    if for_people():
        click.echo()
    print_table(
        ("layer", "channels", "shift", "shifted most"), [_row(layer) for layer in found.layers], none="No layers."
    )
    return None


def _facts(found: ModelShift) -> list[tuple[str, str]]:
    rows = f"{found.rows:,} of at most {found.window_rows:,}, {share(found.sample_rate)} of the requests"
    unknown = f"unknown until {found.least_rows} rows are measured"
    return [
        ("model", found.model),
        ("version", found.version),
        ("shift", f"{found.shift:.3g}" if found.HasField("shift") else unknown),
        ("sampled rows", rows),
        ("dropped rows", f"{found.dropped_rows:,}" if found.dropped_rows else ""),
        ("rows that are not finite", f"{found.not_finite_rows:,}" if found.not_finite_rows else ""),
        ("measuring has stopped", found.failure),
        *((f"{layer} is not measured", why) for layer, why in sorted(found.left_out.items())),
    ]


def _row(layer: LayerShift) -> tuple[str, ...]:
    known = f"{layer.shift:.3g}" if layer.HasField("shift") else ABSENT
    worst = "; ".join(_channel(channel) for channel in layer.channels)
    return layer.layer, str(layer.measured_channels), known, worst or ABSENT


def _channel(channel: ChannelShift) -> str:
    return f"{channel.channel}: mean {channel.mean_shift:+.2f}, deviation x{channel.std_ratio:.2f}"

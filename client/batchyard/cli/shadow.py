"""model shadow: how a version would have answered in place of the one that serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchyard.cli.names import model_name
from batchyard.cli.options import Connection, as_json, connects, examples
from batchyard.cli.output import for_people, print_facts, print_json, share

if TYPE_CHECKING:
    from batchyard.client import ShadowComparison


@click.command(
    epilog=examples(
        "batchyard alias mnist shadow 4          # version 4 gets copies of requests",
        "batchyard model set mnist --shadow-share 50%",
        "batchyard model shadow mnist",
        "batchyard alias mnist production 4      # promote it",
    )
)
@model_name("model", version=False)
@as_json
@connects(inference=True)
def shadow(model: str, as_json: bool, connection: Connection) -> None:
    """How the version with the alias `shadow` compares with the one that serves MODEL.

    It gets copies of a share of the requests (10% unless `model set --shadow-share` says otherwise), at low priority,
    on each inference plane; this shows one plane's. Its answers go to nobody. Differences are those of the outputs.
    """
    from batchyard.client import plain

    with connection.open() as client:
        found = client.inference.shadow.get(model)
    if as_json:
        return print_json(plain(found))
    print_facts(_facts(found))
    if for_people() and found.rows:
        click.echo(f"\nPromote it  batchyard alias {found.model} production {found.shadow_version}")
        click.echo(f"End it      batchyard alias {found.model} shadow --delete")
    return None


def _facts(found: ShadowComparison) -> list[tuple[str, str]]:
    unknown = "unknown until a request is compared"
    agreement = f"{share(found.agreeing_rows / found.rows)} of {found.rows:,} rows" if found.rows else unknown
    return [
        ("model", found.model),
        ("version", found.version),
        ("shadow", f"version {found.shadow_version}, copies of {share(found.share)} of the requests"),
        ("compared", f"{found.requests:,} requests, {found.rows:,} rows"),
        ("same class", agreement),
        ("mean difference", f"{found.mean_difference:.3g}" if found.HasField("mean_difference") else ""),
        ("largest difference", f"{found.largest_difference:.3g}" if found.HasField("largest_difference") else ""),
        ("engine for a row", _microseconds(found.seconds_per_row)),
        ("shadow's for a row", _microseconds(found.shadow_seconds_per_row)),
        ("dropped rows", f"{found.dropped_rows:,}, because too many waited" if found.dropped_rows else ""),
        ("failed rows", f"{found.failed_rows:,}" if found.failed_rows else ""),
        ("rows that are not finite", f"{found.not_finite_rows:,}" if found.not_finite_rows else ""),
        ("the shadow's last failure", found.failure),
    ]


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f} us" if seconds else ""

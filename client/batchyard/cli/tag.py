"""job tag: what people write about a job, to find it by."""

from __future__ import annotations

import click

from batchyard.cli.names import job_id
from batchyard.cli.options import Connection, as_json, connects, examples
from batchyard.cli.output import clean, for_people, print_json


@click.command(
    epilog=examples(
        "batchyard job tag digits-mlp-3f2a sweep-3 best",
        "batchyard job tag ID --remove best",
        "batchyard job tag ID --note 'the learning rate was too high'",
    )
)
@job_id
@click.argument("tags", nargs=-1, metavar="[TAG]...")
@click.option("--remove", multiple=True, metavar="TAG", help="Take this tag away; may come several times.")
@click.option("--note", metavar="TEXT", help="Instead of the note that there is; '' removes it.")
@as_json
@connects()
def tag(
    name: str, tags: tuple[str, ...], remove: tuple[str, ...], note: str | None, as_json: bool, connection: Connection
) -> None:
    """Put tags on a job, take tags away, write a note.

    Whatever its state. The dashboard's list is searched by both, and `batchyard job show` shows them. Without any of
    them it says which tags there are.
    """
    from batchyard.client import plain

    with connection.open() as client:
        job = client.annotate(name, add_tags=tags, remove_tags=remove, note=note)
    if as_json:
        print_json(plain(job))
    elif for_people():
        identity, tagged = job.name.removeprefix("trainingJobs/"), " ".join(job.tags) or "no tags"
        click.echo(f"{identity}: {tagged}" + (f"; {clean(job.note)}" if job.note else ""))
    else:
        click.echo("\n".join(job.tags))

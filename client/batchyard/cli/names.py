"""Arguments that name a job or a model: a shell that completes commands completes them, too."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

import click

from batchyard.cli.options import Command, Connection

if TYPE_CHECKING:
    from batchyard.client import Client

SECONDS = 1.0
"""That a person who has pressed Tab waits for a service."""
MOST = 100
"""Names that are offered, newest first."""
Find = Callable[["Client"], list[str]]


def job_id(command: Command) -> Command:
    """The argument ID, given as `name`."""
    return click.argument("name", metavar="ID", shell_complete=_offer(_jobs))(command)


def model_name(parameter: str, *, version: bool) -> Callable[[Command], Command]:
    """The argument MODEL, with `version` MODEL[@ALIAS|/VERSION]."""
    metavar = "MODEL[@ALIAS|/VERSION]" if version else "MODEL"
    return click.argument(parameter, metavar=metavar, shell_complete=_offer(_versions if version else _models))


def _offer(find: Find) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        """What the service has that begins so; nothing where it cannot be asked, for here is no place for errors."""
        from batchyard.client import BatchyardError

        given = {name: context.params.get(name) for name in ("control", "inference", "token_file", "tls_ca")}
        try:
            with Connection(**given).open(timeout=SECONDS, retry_for=0.0) as client:
                return [name for name in find(client) if name.startswith(incomplete)]
        except BatchyardError:
            return []

    return complete


def _jobs(client: Client) -> list[str]:
    return [job.name.removeprefix("trainingJobs/") for job in islice(client.jobs(), MOST)]


def _models(client: Client) -> list[str]:
    return [model.name.removeprefix("models/") for model in islice(client.models(), MOST)]


def _versions(client: Client) -> list[str]:
    """Each model, and its aliases."""
    found = [(model.name.removeprefix("models/"), sorted(model.aliases)) for model in islice(client.models(), MOST)]
    return [name for model, aliases in found for name in (model, *(f"{model}@{alias}" for alias in aliases))]

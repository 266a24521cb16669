"""The `batchyard` command and its sub-commands."""

from __future__ import annotations

import os
from typing import Any

import click

from batchyard.cli import failures
from batchyard.cli.completion import completion
from batchyard.cli.doctor import doctor
from batchyard.cli.engines import engines
from batchyard.cli.exchange import ensemble, export_, import_
from batchyard.cli.explain import explain
from batchyard.cli.jobs import job, jobs, submit
from batchyard.cli.lineage import lineage
from batchyard.cli.logs import logs
from batchyard.cli.metrics import metrics
from batchyard.cli.model_set import set_model
from batchyard.cli.models import alias, model, models
from batchyard.cli.paper.command import paper
from batchyard.cli.pause import pause, resume
from batchyard.cli.predict import predict
from batchyard.cli.recalibrate import recalibrate
from batchyard.cli.rerun import rerun
from batchyard.cli.service import down, status, up
from batchyard.cli.shadow import shadow
from batchyard.cli.shift import shift
from batchyard.cli.tag import tag
from batchyard.cli.top import top
from batchyard.cli.wait import wait


class Root(click.Group):
    """A group whose errors are two lines on stderr and whose exit codes are failures.EXIT_CODES."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Click's entry, with this command's own way to end."""
        entry: Any = super().main
        raise SystemExit(failures.run(lambda: entry(*args, **{**extra, "standalone_mode": False})))

    def list_commands(self, context: click.Context) -> list[str]:
        """In the order of a user's day, not of the alphabet."""
        return list(self.commands)


@click.group(
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=f"""\b
Examples:
  batchyard up
  batchyard submit examples/digits-mlp.yaml --follow
  batchyard models
  batchyard predict digits digit.png
  batchyard down

\b
Exit codes:
{failures.EXIT_CODES}

\b
Where the service is: flags, then BATCHYARD_CONTROL, BATCHYARD_INFERENCE, BATCHYARD_TOKEN_FILE and
BATCHYARD_TLS_CA, then ./batchyard-data/control.json of a running service, then 127.0.0.1:50051 and :8001.
""",
)
@click.version_option(package_name="batchyard", message="%(version)s")
def batchyard() -> None:
    """Train batch-normalised networks, fold and certify them, and serve them over gRPC."""


for _command in (explain, pause, resume, rerun, tag, wait, logs, metrics):
    job.add_command(_command)
model.add_command(lineage)
model.add_command(set_model)
model.add_command(shift)
model.add_command(shadow)
model.add_command(engines)
model.add_command(recalibrate)
for _command in (export_, import_, ensemble):
    model.add_command(_command)
for _command in (up, down, status, submit, jobs, job, models, model, alias, predict, top, paper, doctor, completion):
    batchyard.add_command(_command)


def main() -> None:
    """The console script."""
    # gRPC's own lines about broken handshakes would bury ours.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    batchyard(prog_name="batchyard")

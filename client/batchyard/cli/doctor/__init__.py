"""doctor: what keeps Batchyard from working here, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchyard.cli.failures import Failure
from batchyard.cli.options import Connection, as_json, connects, examples
from batchyard.cli.output import clean, for_people, print_json

if TYPE_CHECKING:
    from batchyard.cli.doctor.finding import Finding, Patient

_MARKS = {"good": ("ok", "green"), "absent": ("--", "bright_black"), "warning": ("!!", "yellow"), "bad": ("XX", "red")}


@click.command(epilog=examples("batchyard doctor", "batchyard doctor --json | jq '.[] | select(.health == \"bad\")'"))
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("batchyard-data"),
    show_default=True,
    help="Where the service keeps, or will keep, its data.",
)
@as_json
@connects(inference=True)
def doctor(data_dir: Path, as_json: bool, connection: Connection) -> None:
    """Check the installation, this machine and the service.

    Exit code 0 unless something will fail. Nothing is started or changed.
    """
    from batchyard.cli.doctor.finding import Health, Patient

    findings: list[Finding] = []
    for finding in _examine(Patient(data_dir=data_dir, connection=connection)):
        findings.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        print_json([{"what": f.what, "health": f.health, "found": f.found, "advice": f.advice} for f in findings])
    ill = [finding.what for finding in findings if finding.health is Health.BAD]
    if ill:
        raise Failure(f"this will fail: {', '.join(ill)}", "Do what stands beside each of them.")


def _examine(patient: Patient) -> Iterator[Finding]:
    from batchyard.cli.doctor import installation, machine, service

    checks = (
        *(installation.python, installation.extras),
        *(machine.cores, machine.memory, machine.shared_memory, machine.disk, machine.data_folder),
        *(machine.open_files, machine.clock, machine.gpus),
        *(service.process, service.ports, service.planes),
    )
    for check in checks:
        yield from check(patient)


def _print(finding: Finding) -> None:
    if not for_people():
        return click.echo("\t".join((finding.health, finding.what, clean(finding.found), clean(finding.advice))))
    mark, colour = _MARKS[finding.health]
    click.echo(f"{click.style(mark, fg=colour)}  {finding.what:<16}  {clean(finding.found)}")
    if finding.advice:
        click.echo(f"{'':22}{click.style(clean(finding.advice), fg=colour)}")
    return None

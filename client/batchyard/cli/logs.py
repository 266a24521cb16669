"""job logs: a job's log lines, some or all of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from batchyard.cli.names import job_id
from batchyard.cli.options import Connection, as_json, connects, examples
from batchyard.cli.output import clean, print_json

if TYPE_CHECKING:
    from batchyard.client import Event, LogLine

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")


class Since(click.ParamType[datetime]):
    """A point in time: how long ago, for example 10m, or ISO 8601."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> datetime:
        """The time in UTC; one without an offset is local."""
        if isinstance(value, datetime):
            return value
        if ago := _AGO.fullmatch(value):
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
        try:
            return datetime.fromisoformat(value).astimezone(UTC)
        except ValueError:
            self.fail(f"{value!r} given; expected 90s, 10m, 2h, 1d or a time such as 2026-11-23T14:30", param, context)


class Pattern(click.ParamType[re.Pattern[str]]):
    """A regular expression."""

    name = "REGEX"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> re.Pattern[str]:
        """The compiled expression."""
        try:
            return re.compile(value)
        except re.error as error:
            self.fail(f"{value!r} is no regular expression: {error}", param, context)


@click.command(
    epilog=examples(
        "batchyard job logs digits-mlp-3f2a",
        "batchyard job logs ID --follow --level WARNING",
        "batchyard job logs ID --since 10m --grep 'loss|nan' --worker 1",
    )
)
@job_id
@click.option("--follow", "-f", is_flag=True, help="Go on until the job has ended.")
@click.option("--since", type=Since(), help="Only lines as young as this: 10m, 2h, or a time in ISO 8601.")
@click.option("--grep", type=Pattern(), help="Only lines whose text holds this regular expression.")
@click.option("--level", type=click.Choice(LEVELS, case_sensitive=False), default="DEBUG", help="This level and above.")
@click.option("--worker", type=click.IntRange(0), metavar="RANK", help="Only lines of this worker.")
@as_json
@connects()
def logs(name: str, follow: bool, as_json: bool, connection: Connection, **filters: Any) -> None:
    """Print a job's log lines: time, level, worker, text."""
    from batchyard.cli.follow import event_json
    from batchyard.client import LogLine

    wanted = _filter(**filters)
    with connection.open() as client:
        for event in client.logs(name, follow=follow):
            line = event.detail
            assert isinstance(line, LogLine)
            if not wanted(event, line):
                continue
            if as_json:
                print_json(event_json(event))
            else:
                worker = f"worker {line.rank}" if line.HasField("rank") else "supervisor"
                time = event.time.isoformat(timespec="milliseconds")
                click.echo("\t".join((time, line.level, worker, clean(line.text))))


def _filter(
    since: datetime | None, grep: re.Pattern[str] | None, level: str, worker: int | None
) -> Callable[[Event, LogLine], bool]:
    """Whether a line is one of those asked for."""
    levels = LEVELS[LEVELS.index(level) :]

    def wanted(event: Event, line: LogLine) -> bool:
        return (
            (since is None or event.time >= since)
            and (grep is None or grep.search(line.text) is not None)
            and line.level in levels
            and (worker is None or (line.HasField("rank") and line.rank == worker))
        )

    return wanted

"""top: what the service is doing, live."""

from __future__ import annotations

import time

import click

from batchyard.cli.options import Connection, as_json, connects, examples
from batchyard.cli.output import for_people, print_json


@click.command(
    epilog=examples("batchyard top", "batchyard top --interval 5", "batchyard top --once --json | jq .traffic")
)
@click.option(
    "--interval", default=1.0, show_default=True, type=click.FloatRange(0.2, 60), help="Seconds between looks."
)
@click.option("--once", is_flag=True, help="Look for one interval, print it and end; so does a pipe, and --json.")
@as_json
@connects(inference=True)
def top(interval: float, once: bool, as_json: bool, connection: Connection) -> None:
    """Jobs with their loss, models with their traffic, every second. Ctrl-C ends it."""
    from rich.console import Console
    from rich.live import Live

    from batchyard.cli.top.screen import draw, lines
    from batchyard.cli.top.survey import Observer

    console = Console()
    with connection.open() as client:
        observer = Observer(client)
        survey = observer.look()
        if once or as_json or not for_people():
            time.sleep(interval)  # rates are differences
            if as_json:
                return print_json(observer.look().plain())
            if not for_people():
                return click.echo("\n".join(lines(observer.look())))
            return console.print(draw(observer.look(), observer.courses, console.width))
        try:
            with Live(
                draw(survey, observer.courses, console.width), console=console, screen=True, auto_refresh=False
            ) as live:
                while True:
                    time.sleep(interval)
                    live.update(draw(observer.look(), observer.courses, console.width), refresh=True)
        except KeyboardInterrupt:
            return None

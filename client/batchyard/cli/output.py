"""What commands print: tables for people, tab-separated lines without a heading for pipes, JSON on request."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp
    from rich.table import Table

ABSENT = "-"
GAP = 2
"""Characters between two columns, and at the edges of a table together."""
SENTENCE = 24
"""Characters that a table's last column has at the least, if it needs as many."""


def for_people() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty()


def print_json(value: Any) -> None:
    """One JSON document; one line of it in a pipe."""
    click.echo(json.dumps(value, indent=2 if for_people() else None, allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, none: str, spare: Sequence[str] = ()) -> None:
    """A table; people read `none` when there is no row. `spare`: as rich_table's."""
    cells = [[clean(cell) for cell in row] for row in rows]
    if not for_people():
        for row in cells:
            click.echo("\t".join(row))
    elif not cells:
        click.echo(none)
    else:
        from rich.console import Console

        console = Console()
        console.print(rich_table(columns, cells, width=console.width, spare=spare))


def rich_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, width: int, spare: Sequence[str] = ()
) -> Table:
    """A table as people see it, in `width` characters.

    Where not all columns have room, those of `spare` are left out, the first one first. An id that is broken over two
    lines cannot be copied, so only the first and the last column are ever folded, and the last one, where sentences
    are, before anything is left out.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [[clean(cell) for cell in row] for row in rows]
    shown = with_room(columns, cells, width, spare)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    for at in shown:
        folds = at in (shown[0], shown[-1])
        table.add_column(columns[at], no_wrap=not folds, overflow="fold" if folds else "ellipsis")
    for row in cells:
        table.add_row(*(Text(row[at]) for at in shown))
    return table


def with_room(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int, spare: Sequence[str]) -> list[int]:
    """Which of `columns` a table of `width` characters shows: all but as many of `spare` as there is no room for."""
    needed = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    needed[-1] = max(len(columns[-1]), min(needed[-1], SENTENCE))
    shown = list(range(len(columns)))
    for column in spare:
        if sum(needed[at] + GAP for at in shown) <= width:
            break
        shown.remove(columns.index(column))
    return shown


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Labels with values, one a line; those without a value are left out. People see long values on several lines."""
    known = [(label, value) for label, value in facts if value]
    width = max((len(label) for label, _ in known), default=0) + 2
    for label, value in known:
        if for_people():
            lines = [clean(line) for line in value.splitlines()]
            click.echo(f"{label:<{width}}" + f"\n{'':<{width}}".join(lines))
        else:
            click.echo(f"{label}\t{clean(value)}")


def clean(text: str) -> str:
    """`text` on one line, without characters that would steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def when(time: Timestamp) -> str:
    """For people how long ago, for pipes RFC 3339."""
    if not time.seconds:
        return ABSENT
    if not for_people():
        return time.ToJsonString()
    return f"{span((datetime.now(UTC) - time.ToDatetime(tzinfo=UTC)).total_seconds())} ago"


def span(seconds: float) -> str:
    """Seconds in the two largest units that matter."""
    whole = max(0, round(seconds))
    for size, unit, small, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit} {rest} {below}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def counted(number: int, thing: str) -> str:
    """1 worker, 2 workers."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def share(value: float) -> str:
    """A share in [0, 1] as percent."""
    return f"{value:.2%}"

"""Tables on terminals of any width: what must be copied is whole, and the least important columns give way."""

from collections.abc import Sequence
from io import StringIO

import pytest
from rich.console import Console

from batchyard.cli.output import rich_table

COLUMNS = ("job", "state", "loss", "created")
ROWS = [("digits-mlp-3f2a9c01", "SUCCEEDED", "0.1234", "24 min 3 s ago"), ("b-1", "QUEUED", "-", "1 s ago")]


def drawn(width: int, rows: Sequence[tuple[str, ...]] = ROWS) -> str:
    console = Console(width=width, file=StringIO())
    console.print(rich_table(COLUMNS, rows, width=width, spare=("created", "loss")))
    found = console.file
    assert isinstance(found, StringIO)
    return found.getvalue()


@pytest.mark.parametrize(
    ("width", "columns"),
    [(80, COLUMNS), (56, COLUMNS), (55, COLUMNS[:3]), (40, COLUMNS[:3]), (39, COLUMNS[:2]), (32, COLUMNS[:2])],
)
def test_a_narrow_terminal_gets_fewer_columns_and_each_of_them_whole(width: int, columns: tuple[str, ...]) -> None:
    head, _, first, *_ = [line for line in drawn(width).splitlines() if line.strip()]
    assert tuple(head.split()) == columns
    assert first.split()[:2] == ["digits-mlp-3f2a9c01", "SUCCEEDED"]


def test_a_sentence_in_the_last_column_is_folded_before_a_column_gives_way() -> None:
    sentence = "it needs an NVIDIA GPU and its driver; this machine shows none"
    text = drawn(72, [("a", "b", "c", sentence)])
    assert all(column in text for column in COLUMNS)
    assert " ".join(text.split()).count("NVIDIA") == 1


def test_what_is_still_too_wide_is_folded_and_not_lost() -> None:
    assert "".join(line[1:9].strip() for line in drawn(20).splitlines()[3:7]).startswith("digits-mlp")

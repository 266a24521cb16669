"""What benches report: medians of alternating rounds, ratios held against bars, a table and a JSON."""

from __future__ import annotations

import argparse
import json
import platform
import socket
from pathlib import Path
from typing import Any

import pytest

from bench import report


def a_row(**changes: Any) -> report.Row:
    values: dict[str, Any] = {"name": "layer", "ours": 3.0, "peer": "torch", "peer_value": 2.0, "unit": "us"}
    return report.Row(**{**values, **changes})


def test_a_ratio_is_ours_to_the_peers() -> None:
    assert a_row().ratio == 1.5


@pytest.mark.parametrize(
    ("unit", "bar", "holds"),
    [
        ("us", 1.6, True),
        ("us", 1.5, True),
        ("s", 1.4, False),
        ("samples/s", 1.4, True),
        ("samples/s", 1.5, True),
        ("requests/s", 1.6, False),
    ],
)
def test_a_bar_is_the_largest_ratio_of_times_and_the_smallest_of_rates(unit: str, bar: float, holds: bool) -> None:
    assert a_row(unit=unit, bar=bar).holds is holds


def test_without_a_bar_nothing_holds_or_fails() -> None:
    assert a_row().holds is None


def test_contenders_take_turns_and_every_other_round_goes_backwards() -> None:
    calls: list[str] = []

    def contender(name: str, value: float) -> Any:
        def measure() -> float:
            calls.append(name)
            return value

        return measure

    measured = report.alternate({"a": contender("a", 1.0), "b": contender("b", 2.0)}, rounds=5)
    assert calls == ["a", "b", "b", "a", "a", "b", "b", "a", "a", "b"]
    assert measured == {"a": [1.0] * 5, "b": [2.0] * 5}


def test_fewer_than_five_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"4 rounds given.*5 or more"):
        report.alternate({"a": lambda: 1.0}, rounds=4)


def test_a_comparison_takes_medians_so_that_one_disturbed_round_does_not_count() -> None:
    measured = {"ours": [1.0, 2.0, 3.0, 2.0, 90.0], "peer": [4.0, 4.0, 4.0, 4.0, 4.0]}
    row = report.compare("layer", measured, "ours", "peer", unit="us", bar=1.0, scale=1e6)
    assert (row.ours, row.peer, row.peer_value, row.ratio) == (2e6, "peer", 4e6, 0.5)


def test_the_spread_is_half_the_distance_between_the_quartiles_of_the_rounds_ratios() -> None:
    measured = {"ours": [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0], "peer": [10.0] * 7}
    spread = report.compare("layer", measured, "ours", "peer", unit="us").spread
    assert spread == pytest.approx(2.0)  # quartiles 2 and 6


def test_a_timer_gives_the_seconds_of_one_call() -> None:
    now = 0.0

    def call() -> None:
        nonlocal now
        now += 0.25

    measure = report.timer(call, seconds=1.0, clock=lambda: now)
    before = now
    assert measure() == 0.25
    assert now - before == 1.0  # four calls


def test_a_timer_waits_for_what_calls_leave_behind() -> None:
    now, queued = 0.0, 0

    def call() -> None:
        nonlocal queued
        queued += 1

    def finish() -> None:
        nonlocal now, queued
        now, queued = now + 0.5 * queued, 0

    assert report.timer(call, seconds=2.0, clock=lambda: now, finish=finish)() == 0.5


def test_the_json_has_the_fields_that_readers_rely_on(tmp_path: Path) -> None:
    file = tmp_path / "new" / "nn.json"
    report.publish("nn", [a_row(bar=1.0, spread=0.01), a_row(name="other")], ("numpy",), file)
    result = json.loads(file.read_text())
    assert set(result) >= {"bench", "machine", "date", "versions", "rows"}
    assert result["bench"] == "nn"
    assert result["versions"]["python"] == platform.python_version()
    assert "numpy" in result["versions"]
    first, second = result["rows"]
    assert first == {
        "name": "layer", "ours": 3.0, "peer": "torch", "peer_value": 2.0, "unit": "us",
        "ratio": 1.5, "bar": 1.0, "holds": False, "spread": 0.01,
    }  # fmt: skip
    assert (second["bar"], second["holds"], second["spread"]) == (None, None, None)


def test_the_machine_is_named_by_its_processor_and_not_by_host_or_path() -> None:
    named = report.machine()
    assert "cores" in named
    assert platform.machine() in named
    assert socket.gethostname() not in named
    assert str(Path.cwd()) not in named


def test_a_gpu_that_took_part_is_named_too() -> None:
    assert report.result("nn", [], (), "a GPU")["machine"] == f"{report.machine()}, a GPU"


def test_the_table_shows_every_row_with_its_bar_and_whether_it_holds() -> None:
    rows = [a_row(bar=1.0), a_row(name="rate", unit="samples/s", bar=0.97), a_row(name="shown")]
    _, missed, held, shown = report.table(rows).splitlines()
    assert missed.split() == ["layer", "3.0", "2.0", "us", "torch", "1.500", "<=", "1", "NO"]
    assert held.split()[-3:] == [">=", "0.97", "yes"]
    assert shown.split()[-1] == "1.500"


def test_every_bench_takes_rounds_and_a_results_file() -> None:
    given = report.arguments("what it does", "nn", rounds=7).parse_args(["--json", "x.json"])
    assert given == argparse.Namespace(rounds=7, json=Path("x.json"))

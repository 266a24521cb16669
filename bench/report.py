"""What every bench shares: alternating rounds, medians, the table that it prints and the JSON that it writes."""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

LEAST_ROUNDS = 5
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
RESULTS = Path("bench/results")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison: what we measured, what it is held against, and whether it holds."""

    name: str
    ours: float
    """A time, or a rate where `unit` ends in /s."""
    peer: str
    """What `peer_value` is measured on, in the same run; "bar" where it is a number given beforehand."""
    peer_value: float
    unit: str
    bar: float | None = None
    """For a time the largest, for a rate the smallest ratio that is good enough; None: shown for information."""
    spread: float | None = None
    """Half the distance between the quartiles of the rounds' own ratios: what the ratio may be off by."""

    @property
    def more_is_better(self) -> bool:
        """Whether this is a rate."""
        return self.unit.endswith("/s")

    @property
    def ratio(self) -> float:
        """Ours to the peer's."""
        return self.ours / self.peer_value

    @property
    def holds(self) -> bool | None:
        """Whether the ratio is on the right side of the bar; None without a bar."""
        if self.bar is None:
            return None
        return self.ratio >= self.bar if self.more_is_better else self.ratio <= self.bar

    def to_json(self) -> dict[str, Any]:
        """The row as results files have it."""
        return {
            "name": self.name, "ours": _short(self.ours), "peer": self.peer, "peer_value": _short(self.peer_value),
            "unit": self.unit, "ratio": round(self.ratio, 4), "bar": self.bar, "holds": self.holds,
            "spread": None if self.spread is None else round(self.spread, 4),
        }  # fmt: skip


Rounds = dict[str, list[float]]
"""Each contender's measurements, one for each round."""
T = TypeVar("T")


def alternate(contenders: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Measures every contender once a round, in turn; every other round backwards, so that none always comes first."""
    if rounds < LEAST_ROUNDS:
        raise ValueError(f"{rounds} rounds given; a median needs {LEAST_ROUNDS} or more")
    measured: dict[str, list[T]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            measured[name].append(contenders[name]())
    return measured


def compare(
    name: str,
    measured: Rounds,
    ours: str,
    peer: str,
    *,
    unit: str,
    bar: float | None = None,
    scale: float = 1.0,
) -> Row:
    """The medians of two contenders as a row; `scale` turns what was measured into `unit`."""
    ratios = [a / b for a, b in zip(measured[ours], measured[peer], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return Row(
        name=name,
        ours=statistics.median(measured[ours]) * scale,
        peer=peer,
        peer_value=statistics.median(measured[peer]) * scale,
        unit=unit,
        bar=bar,
        spread=(high - low) / 2,
    )


def timer(
    call: Callable[[], object],
    *,
    seconds: float = 0.005,
    clock: Callable[[], float] = time.process_time,
    finish: Callable[[], object] = lambda: None,
) -> Callable[[], float]:
    """What measures the seconds of one `call`: as the mean of so many that they take about `seconds` together.

    The clock is the processor time of this process: on one thread that is the wall's on a quiet machine, and still the
    same on one that has other things to do. For several threads, processes or a GPU give time.perf_counter, and a
    `finish` that waits for what calls leave behind.
    """

    def measure(count: int) -> float:
        finish()
        began = clock()
        for _ in range(count):
            call()
        finish()
        return (clock() - began) / count

    measure(3)  # the first calls allocate and compile
    count = max(1, round(seconds / min(measure(1) for _ in range(5))))
    return lambda: measure(count)


def keep_freed_memory() -> None:
    """Tells the C library to keep what is freed.

    Otherwise blocks of megabytes go back to the system, or not, by where they happen to lie, and the pages that come in
    anew are half of the time of an operation that only touches them once.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc
        for parameter in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            mallopt(parameter, 1 << 30)


def machine() -> str:
    """The processor, how many of its cores this process may use, and the system; never a name of the host."""
    return f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {platform.machine()}, {platform.system()}"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown processor"


def result(
    bench: str,
    rows: Sequence[Row],
    packages: Sequence[str],
    device: str | None = None,
    left_out: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What a results file holds.

    `packages` are those whose versions matter, `device` a GPU that took part, `left_out` what could not be measured
    and why.
    """
    return {
        "bench": bench,
        "machine": machine() if device is None else f"{machine()}, {device}",
        "date": datetime.date.today().isoformat(),
        "load": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}},
        "rows": [row.to_json() for row in rows],
        **({"left_out": dict(left_out)} if left_out else {}),
    }


def table(rows: Sequence[Row]) -> str:
    """The rows for a terminal, in aligned columns."""
    lines = [("", "ours", "peer", "", "", "ratio", "+-", "bar", "holds"), *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    left = (0, 3, 4, 8)
    padded = (
        [cell.ljust(width) if column in left else cell.rjust(width) for column, (cell, width) in enumerate(columns)]
        for columns in (zip(line, widths, strict=True) for line in lines)
    )
    return "\n".join("  ".join(line).rstrip() for line in padded)


def _cells(row: Row) -> tuple[str, ...]:
    sign = ">=" if row.more_is_better else "<="
    return (
        row.name, f"{_short(row.ours):,}", f"{_short(row.peer_value):,}", row.unit, row.peer, f"{row.ratio:.3f}",
        "" if row.spread is None else f"{row.spread:.3f}", "" if row.bar is None else f"{sign} {row.bar:g}",
        "" if row.holds is None else "yes" if row.holds else "NO",
    )  # fmt: skip


def _short(value: float) -> float:
    """Four digits that count; whole numbers above those."""
    return float(f"{value:.4g}") if abs(value) < 1000 else round(value)


def publish(
    bench: str,
    rows: Sequence[Row],
    packages: Sequence[str],
    path: Path,
    device: str | None = None,
    left_out: Mapping[str, str] | None = None,
) -> None:
    """Prints the table, with what was left out below it, and writes the results file. Arguments as of `result`."""
    print(table(rows))
    for name, why in (left_out or {}).items():
        print(f"not measured: {name}: {why}")
    write(bench, rows, packages, path, device, left_out)


def write(
    bench: str,
    rows: Sequence[Row],
    packages: Sequence[str],
    path: Path,
    device: str | None = None,
    left_out: Mapping[str, str] | None = None,
) -> None:
    """Writes the results file, also of a bench that has not come to its end. Arguments as of `result`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result(bench, rows, packages, device, left_out), indent=2) + "\n")


def arguments(description: str | None, bench: str, *, rounds: int) -> argparse.ArgumentParser:
    """A parser with what every bench understands."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"alternating rounds (default {rounds})")
    parser.add_argument("--json", type=Path, default=RESULTS / f"{bench}.json", help="results file (%(default)s)")
    return parser

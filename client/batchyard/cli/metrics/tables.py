"""CSV and Parquet: a row for each step, a column for each quantity."""

from __future__ import annotations

import contextlib
import csv
from abc import ABC, abstractmethod
from pathlib import Path

from batchyard.cli.failures import USAGE, Failure
from batchyard.client import TrainingJob
from batchyard.client.history import Point, Points


class Table(ABC):
    """Gathers points and writes them all at the end, under another name first: a reader never sees half a table."""

    def __init__(self, path: Path) -> None:
        """Raises Failure for a folder."""
        if path.is_dir() or not path.name:
            raise Failure(f"{path}: is a folder", "Name a file with --output.", USAGE)
        self._path = path
        self._points = Points()

    def write(self, point: Point) -> None:
        """Takes the next point."""
        self._points.append(point)

    def rewind(self, step: int) -> None:
        """Forgets what came after `step`."""
        self._points.rewind(step)

    def close(self, job: TrainingJob) -> str:
        """Writes the table. Raises Failure when it cannot be written."""
        partial = self._path.with_name(f".{self._path.name}.part")
        columns, rows = ["step", "attempt", "time", *self._points.names()], list(self._points.rows())
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._write(partial, columns, rows)
            partial.replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise Failure(f"{self._path}: {error.strerror}", "Name another file with --output.") from None
        return f"{self._path}: {len(rows)} rows, {len(columns)} columns"

    @abstractmethod
    def _write(self, path: Path, columns: list[str], rows: list[dict[str, float | int | str]]) -> None:
        """Writes the file."""


class CsvTable(Table):
    """Comma-separated values with a heading; what a step did not measure is empty."""

    def _write(self, path: Path, columns: list[str], rows: list[dict[str, float | int | str]]) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


class ParquetTable(Table):
    """Apache Parquet; what a step did not measure is null, and times are timestamps."""

    def _write(self, path: Path, columns: list[str], rows: list[dict[str, float | int | str]]) -> None:
        from datetime import datetime

        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = {"step": pa.int64(), "attempt": pa.int32(), "time": pa.timestamp("us", tz="UTC")}
        schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in columns])
        typed = [{**row, "time": datetime.fromisoformat(str(row["time"]))} for row in rows]
        pq.write_table(pa.Table.from_pylist(typed, schema=schema), path)

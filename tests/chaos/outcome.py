"""What a service leaves when it has stopped: rows, files and processes. Read without the service's own code."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.service import START_S, Service, until

Row = dict[str, Any]
TABLES = ("jobs", "attempts", "events", "checkpoints", "models", "versions", "aliases")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of a history."""

    rows: dict[str, list[Row]]
    """By table, JSON columns read."""
    damaged: dict[str, str]
    """Checkpoints that rows name and that are not what was written, with the reason."""
    checkpoint_digests: dict[int, dict[int, str]]
    """By job number and step, the sha256 of the tensors of those that rows name."""
    artifacts: dict[str, dict[str, Any]]
    """By folder name, the manifest, with `sha256`, its own digest."""
    left: tuple[str, ...]
    """Files and folders that nothing refers to, below the data folder."""
    processes: tuple[int, ...]
    """What still runs."""


def stopped(service: Service) -> Outcome:
    """Stops the service and looks at what is left. What a killed control plane had no time for, the next one does."""
    service.stop()
    outcome = _look(service)
    if outcome.left or outcome.processes:
        service.disarm()
        service.start()
        until(service.answers, START_S, "the control plane answers once more")
        service.stop()
        outcome = _look(service)
    return outcome


def _look(service: Service) -> Outcome:
    data = service.data
    rows = _rows(data / "batchyard.db")
    names = {row["number"]: row["id"] for row in rows["jobs"]}
    damaged, digests = {}, dict[int, dict[int, str]]()
    for row in rows["checkpoints"]:
        folder = data / "checkpoints" / names[row["job_number"]] / row["uri"].rpartition("/")[2]
        try:
            digests.setdefault(row["job_number"], {})[row["step"]] = _verified(folder, row["sha256"])
        except (OSError, ValueError, KeyError) as error:
            damaged[row["uri"]] = f"{type(error).__name__}: {error}"
    artifacts = {}
    for manifest in (data / "artifacts").glob("*/manifest.json"):
        text = manifest.read_bytes()
        artifacts[manifest.parent.name] = {**json.loads(text), "sha256": hashlib.sha256(text).hexdigest()}
    return Outcome(
        rows=rows,
        damaged=damaged,
        checkpoint_digests=digests,
        artifacts=artifacts,
        left=tuple(sorted(_left(data, rows, names))),
        processes=tuple(process.pid for process in service.processes()),
    )


def _rows(file: Path) -> dict[str, list[Row]]:
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        (sound,) = connection.execute("PRAGMA integrity_check").fetchone()
        if sound != "ok":
            raise ValueError(f"the database is damaged: {sound}")
        tables = {name: [dict(row) for row in connection.execute(f"SELECT * FROM {name}")] for name in TABLES}
    finally:
        connection.close()
    for row in tables["events"]:
        row["payload"] = json.loads(row["payload"])
    for row in tables["jobs"]:
        row["spec"] = json.loads(row["spec"])
    return tables


def _verified(folder: Path, sha256: str) -> str:
    """The digest of a checkpoint's tensors. Raises ValueError when it is not what its row and its name vouch for."""
    manifest = (folder / "checkpoint.json").read_bytes()
    digest = hashlib.sha256(manifest).hexdigest()
    if digest != sha256 or not digest.startswith(folder.name.rpartition("-")[2]):
        raise ValueError("the manifest is not what its row and its name vouch for")
    expected = json.loads(manifest)["tensors"]["sha256"]
    if hashlib.sha256((folder / "tensors.safetensors").read_bytes()).hexdigest() != expected:
        raise ValueError("the tensors are not what the manifest vouches for")
    return str(expected)


def _left(data: Path, rows: dict[str, list[Row]], names: dict[int, str]) -> list[str]:
    """What nothing in the database refers to."""
    known = {
        "checkpoints": {f"{names[row['job_number']]}/{row['uri'].rpartition('/')[2]}" for row in rows["checkpoints"]},
        "artifacts": {row["artifact_uri"].rpartition("/")[2] for row in rows["versions"]},
        "executor/attempts": set[str](),
    }
    depth = {"checkpoints": "*/*", "artifacts": "*", "executor/attempts": "*"}
    found = [
        f"{top}/{path.relative_to(data / top)}"
        for top, references in known.items()
        for path in (data / top).glob(depth[top])
        if str(path.relative_to(data / top)) not in references
    ]
    return [*found, *(str(path.relative_to(data)) for path in data.glob(".*"))]
